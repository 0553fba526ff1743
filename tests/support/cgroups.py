"""Control groups as files, as the kernel writes them, for tests of what they allow."""

from pathlib import Path

import pytest

from conjure.core import machine_limits

NO_LIMIT_OF_VERSION_1 = "9223372036854771712"


def put_into_group(folder: Path, monkeypatch: pytest.MonkeyPatch, controller: str = "") -> Path:
    """Have this process be in the group job, in the group pod of a container; returns its folder.

    Args:
        folder: Where to.
        monkeypatch: The test's.
        controller: Of version 1; empty means version 2.
    """
    own = folder / "groups" / "pod" / "job"
    own.mkdir(parents=True)
    kind = f"cgroup cgroup rw,{controller}" if controller else "cgroup2 cgroup2 rw"
    mounts = [
        f"29 24 0:25 / {folder}/other rw - tmpfs tmpfs rw",
        f"30 24 0:26 / {folder}/groups rw,nosuid shared:9 - {kind}",
    ]
    (folder / "mountinfo").write_text("\n".join([*mounts, ""]))
    (folder / "own").write_text(f"7:pids:/elsewhere\n4:{controller}:/pod/job\n")
    monkeypatch.setattr(machine_limits, "_MOUNTS", folder / "mountinfo")
    monkeypatch.setattr(machine_limits, "_OWN", folder / "own")
    return own


def write(group: Path, **files: str) -> None:
    """Write files of a group; their names have an underscore for the first dot."""
    for name, content in files.items():
        (group / name.replace("_", ".", 1)).write_text(f"{content}\n")
