"""Much output, many files, large files: small sizes in every test run, the large ones on demand."""

import hashlib
from pathlib import Path

import pytest

from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.schema.run_folder import LOG_FILE
from conjure.runs.telemetry.logs import LogTail
from support.casting import UNTIL_GO, release, supervisor_of, wait_until

LARGE = [pytest.mark.large, pytest.mark.timeout(900)]
MEGABYTE = 1_000_000


def peak_memory_bytes(pid):
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


@pytest.mark.parametrize("size", [3 * MEGABYTE, pytest.param(100 * MEGABYTE, marks=LARGE)])
@pytest.mark.parametrize(
    "source", ["head -c {size} /dev/zero | tr '\\0' x", "yes | head -c {size}", "head -c {size} /dev/urandom"]
)
def test_much_output_in_bounded_memory(client, home, size, source):
    run = client.run(f"{source.format(size=size)} | tee out.bin; sleep 0.5; touch ../read; {UNTIL_GO}")
    supervisor = supervisor_of(run)
    folder = home.run_folder(run.number)
    wait_until((folder / "read").exists, "the end of the output")
    peak = peak_memory_bytes(supervisor.pid)
    release(run)
    run.wait(check=True)
    assert peak < 150 * MEGABYTE
    seen = hashlib.sha256()
    for entry in LogTail(folder / LOG_FILE).read():
        seen.update(entry.content)
    with (folder / "outputs" / "out.bin").open("rb") as file:
        assert seen.hexdigest() == hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=LARGE)])
def test_many_output_files(client, home, count):
    code = f"""
import os
for i in range({count}):
    os.makedirs(f"d{{i % 50}}", exist_ok=True)
    open(f"d{{i % 50}}/{{i}}", "w").write(str(i))
"""
    run = client.run(["python", "-c", code]).wait(check=True)
    assert run.record.outputs.files == count
    manifest = Manifest.load(home.run_folder(run.number) / "manifest.json")
    assert len(manifest.entries) == count
    assert manifest.find_faults(home.run_folder(run.number) / "outputs") == []


@pytest.mark.parametrize("size", [20 * MEGABYTE, pytest.param(2000 * MEGABYTE, marks=LARGE)])
def test_a_large_output_is_moved_not_copied(client, home, size):
    run = client.run(f"head -c {size} /dev/zero > big; stat -c %i big").wait(check=True)
    saved = home.run_folder(run.number) / "outputs" / "big"
    assert saved.stat().st_size == size
    assert list(run.logs()) == [str(saved.stat().st_ino)]


@pytest.mark.parametrize("points", [2_000, pytest.param(200_000, marks=LARGE)])
def test_many_metric_points(client, write, points):
    write("t.py", f"import conjure\nfor i in range({points}):\n    conjure.log_metric('loss', i, i)\n")
    run = client.run("python t.py").wait(check=True)
    summary = run.metrics()["loss"]
    assert (summary.points, summary.last_step, summary.lowest, summary.highest) == (
        points,
        points - 1,
        0.0,
        points - 1,
    )
    assert len(run.metrics("loss")) == points
