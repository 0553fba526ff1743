import shutil
import subprocess
from pathlib import Path

import pytest

from conjure.runs.host.gpu_meter import GpuMeter, GpuReading, memory_of

_SOURCE = Path(__file__).parents[3] / "support" / "nvml.c"
_COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library with the driver's functions and structures, as its header declares them."""
    if _COMPILER is None:
        pytest.skip("there is no C compiler")
    built = tmp_path_factory.mktemp("nvml") / "libnvml.so"
    subprocess.run([_COMPILER, "-shared", "-fPIC", "-o", built, _SOURCE], check=True)
    return str(built)


def test_what_the_driver_tells(library):
    first, second = GpuMeter(library).read()
    assert first == GpuReading(
        index=0,
        name="Test GPU 80",
        busy_percent=63,
        used_bytes=20_000_000_000,
        total_bytes=80_000_000_000,
        temperature_c=54,
        power_w=320.5,
        process_bytes={100: 5_000_000_000, 101: 1000},
    )
    assert second == GpuReading(index=1, used_bytes=7, total_bytes=80_000_000_000)


def test_without_a_driver_there_are_no_readings(tmp_path):
    assert GpuMeter("libthere-is-none.so.1").read() == []
    (tmp_path / "text.so").write_text("no library")
    assert GpuMeter(str(tmp_path / "text.so")).read() == []


@pytest.mark.parametrize(
    ("pids", "given", "held"),
    [
        ([1, 2], [], 30),
        ([1], [1], 10),
        ([9], [0, 1], 300),
        ([9], [1], 200),
        ([9], [], None),
        ([9], [7], None),
    ],
)
def test_memory_of_a_run(pids, given, held):
    readings = [
        GpuReading(0, used_bytes=100, process_bytes={1: 10, 2: 15}),
        GpuReading(1, used_bytes=200, process_bytes={2: 5}),
    ]
    assert memory_of(readings, pids, given) == held


def test_memory_without_a_gpu():
    assert memory_of([], [1], [0]) is None
