"""Programs that run where one folder or file is mounted on another, which nobody else sees."""

import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

_MOUNT_AND_RUN = """
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done
shift
exec "$@"
"""


def run_mounted(mounts: Sequence[tuple[Path, Path]], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program with mounts of its own, each what is mounted and where; skips where that is forbidden."""
    if not _may_mount():
        pytest.skip("mounting is not permitted here")
    return _run(mounts, *words)


def _run(mounts: Sequence[tuple[Path, Path]], *words: str | Path) -> subprocess.CompletedProcess[str]:
    pairs = [path for mount in mounts for path in mount]
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        _MOUNT_AND_RUN,
        "sh",
        *pairs,
        "--",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@cache
def _may_mount() -> bool:
    with tempfile.TemporaryDirectory() as made:
        source, point = Path(made, "source"), Path(made, "point")
        source.mkdir()
        point.mkdir()
        try:
            return _run([(source, point)], "true").returncode == 0
        except FileNotFoundError:
            return False
