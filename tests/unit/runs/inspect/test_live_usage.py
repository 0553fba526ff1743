import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.host.process import this_process
from conjure.runs.inspect.live_usage import Sampler
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import RunSpec

_BUSY = "import sys; held = bytearray(50_000_000); print(flush=True)\nwhile True: pass"


@pytest.fixture
def record():
    """A run whose supervisor is this process."""
    return RunRecord(1, RunSpec(command=("true",), folder=Path("/code")), owner=this_process())


@pytest.fixture
def busy():
    """A child of this process that computes and holds 50 MB."""
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_moment_of_a_run(tmp_path, record, busy):
    clock = iter([100.0, 102.0])
    sampler = Sampler(Home(tmp_path), record, timer=lambda: next(clock))
    started = cpu_ticks(busy.pid)
    while cpu_ticks(busy.pid) < started + 5:
        time.sleep(0.01)
    sample = sampler.sample()
    assert sample.processes >= 1
    assert sample.memory_bytes > 50_000_000
    assert 2.5 <= sample.cpu_percent < 100 * os.cpu_count()
    assert sample.read_bytes_per_s >= 0


def cpu_ticks(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_a_run_of_another_machine_is_not_seen(tmp_path, record):
    elsewhere = replace(record, owner=replace(record.owner, host_id="other"))
    reused = replace(record, owner=replace(record.owner, started="1"))
    for unseen in (elsewhere, reused, replace(record, owner=None)):
        assert Sampler(Home(tmp_path), unseen).sample() is None
