import os
import subprocess
import sys

import pytest

from conjure.runs.host.process import descendants
from conjure.runs.host.process_usage import UsageMeter

_WRITE = """
import os, subprocess, sys
def write(name):
    with open(name, "wb") as file:
        file.write(os.urandom(4_000_000))
        file.flush()
        os.fsync(file.fileno())
if len(sys.argv) > 1:
    write(sys.argv[1])
else:
    subprocess.run([sys.executable, __file__, "one"], check=True)
    subprocess.run([sys.executable, __file__, "two"], check=True)
    hold = bytearray(60_000_000)
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process whose two children have each written 4 MB and ended, and that holds 60 MB itself."""
    script = tmp_path / "write.py"
    script.write_text(_WRITE)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"written\n"
        yield process
        process.stdin.close()


def of_this(process):
    return [one for one in descendants(os.getpid()) if one.pid == process.pid]


def test_what_ended_children_wrote_is_counted_once(tmp_path):
    script = tmp_path / "write.py"
    script.write_text(_WRITE)
    meter = UsageMeter()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        meter.look_at(of_this(process))
        during = meter.usage()
        process.stdin.close()
    after = meter.usage()
    if after.written_bytes == 0:
        pytest.skip("this file system does not account for what is written")
    for usage in (during, after):
        assert 8_000_000 <= usage.written_bytes < 11_000_000
    assert after.cpu_s > 0


def test_peaks_stay(writer):
    meter = UsageMeter()
    meter.look_at(of_this(writer))
    peak = meter.usage().peak_memory_bytes
    assert peak > 60_000_000
    meter.look_at([])
    meter.note_peak(1)
    assert meter.usage().peak_memory_bytes == peak
    meter.note_peak(2 * peak)
    assert meter.usage().peak_memory_bytes == 2 * peak
