"""Checkpoints against real SIGKILLs and a real full disk."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.errors import CheckpointError
from conjure.lm.checkpoints.pretrained import load_checkpoint, save_checkpoint
from support import crash_saver
from support.models import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, crash_saver.__file__, tmp_path_factory.mktemp("saved")],
        env={"PYTHONPATH": str(Path(crash_saver.__file__).parent.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new(
    reports: dict[str, dict], way: str
) -> None:
    report = reports[way]
    assert report["operations"] > 20
    assert min(report["outcomes"].values()) > 0
    assert report["left"] == ["model"]  # the next save clears up after the dead ones


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(folder, tiny_model(1), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).startswith(f"the checkpoint could not be saved to {folder}: ")
    assert "File too large" in str(caught.value)
    assert load_checkpoint(folder)[0].embedding.weight.equal(tiny_model().embedding.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
