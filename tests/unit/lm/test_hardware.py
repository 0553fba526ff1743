"""What this machine is good at: how many of its cores may be used."""

import subprocess
import sys

import pytest
import torch

from conjure.core import machine_limits
from conjure.lm import hardware
from conjure.lm.hardware import usable_cores
from support.cgroups import put_into_group, write


@pytest.fixture
def group(tmp_path, monkeypatch):
    """The control group of this process; it has no limits."""
    usable_cores.cache_clear()
    yield put_into_group(tmp_path, monkeypatch)
    usable_cores.cache_clear()


@pytest.fixture
def eight_threads(monkeypatch):
    """torch and the system allow eight, whatever this machine has."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("max 100000", 8),
    ],
)
@pytest.mark.usefixtures("eight_threads")
def test_a_group_s_limit_is_kept(group, limits, cores):
    write(group.parent, cpu_max=limits)
    assert usable_cores() == cores


@pytest.mark.usefixtures("eight_threads", "group")
def test_without_a_limit_it_is_what_torch_and_the_system_allow(monkeypatch):
    assert usable_cores() == 8
    usable_cores.cache_clear()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert usable_cores() == 3


def test_memory_that_a_group_leaves_is_what_is_available(group):
    write(group.parent, memory_max="50000000", memory_current="30000000", memory_stat="inactive_file 4000000")
    assert hardware.available_bytes(torch.device("cpu")) == 24_000_000


@pytest.mark.usefixtures("group")
def test_without_torch_the_variable_counts_and_else_cores(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(
        machine_limits, "_siblings", lambda processor: f"{processor // 2 * 2}-{processor // 2 * 2 + 1}"
    )
    for wanted, cores in (("3", 3), ("", 4), ("many", 4), ("0", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        usable_cores.cache_clear()
        assert usable_cores() == cores


@pytest.mark.parametrize(("device", "operations", "worth"), [("cpu", 1e20, False), ("cuda", 1e10, False)])
def test_a_cpu_and_short_work_are_not_worth_compiling_for(device, operations, worth):
    assert hardware.worth_compiling(torch.device(device), operations) is worth


def test_a_gpu_compiles_long_work_where_there_is_triton(monkeypatch):
    for found in (None, object()):
        monkeypatch.setattr(hardware, "find_spec", lambda name, found=found: found)
        assert hardware.worth_compiling(torch.device("cuda"), 1e18) is (found is not None)


@pytest.mark.slow
def test_a_limit_of_address_space_is_in_what_is_available():
    script = (
        "import resource, psutil, torch\n"
        "from conjure.lm.hardware import available_bytes\n"
        "cpu = torch.device('cpu'); used = psutil.Process().memory_info().vms\n"
        "free = available_bytes(cpu)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))\n"
        "print(free, available_bytes(cpu))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    free, limited = map(int, done.stdout.split())
    assert free > 300_000_000
    assert 200_000_000 < limited <= 300_000_000
