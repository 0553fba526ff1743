"""What a container's control groups allow, read from files as the kernel writes them."""

import sys

import pytest

from conjure.runs.host import cgroup
from conjure.runs.host.capacity import Capacity


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """The group of a process, job, in the group pod of a container; tests write the files of limits."""
    own = tmp_path / "fs" / "pod" / "job"
    own.mkdir(parents=True)
    for group in (own, own.parent, own.parent.parent):
        (group / "cgroup.procs").touch()
    (tmp_path / "mountinfo").write_text(f"30 24 0:26 / {tmp_path}/fs rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "own").write_text("0::/pod/job\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    monkeypatch.setattr(cgroup, "_MEMORY_OF_V1", tmp_path / "none")
    return own


def test_without_limits_there_are_none(groups):
    (groups / "memory.max").write_text("max\n")
    (groups / "cpu.max").write_text("max 100000\n")
    assert cgroup.memory_limit_bytes() == sys.maxsize
    assert cgroup.cpu_limit() == sys.maxsize


def test_the_least_of_all_groups_counts(groups):
    (groups / "memory.max").write_text("max\n")
    (groups.parent / "memory.max").write_text("800000000\n")
    (groups.parent / "cpu.max").write_text("150000 100000\n")
    assert cgroup.memory_limit_bytes() == 800_000_000
    assert cgroup.cpu_limit() == 1.5
    capacity = Capacity.of_this_machine()
    assert (capacity.cpus, capacity.memory_bytes) == (1, 800_000_000)


def test_a_limit_of_the_first_version_counts_too(groups, monkeypatch, tmp_path):
    (tmp_path / "limit_in_bytes").write_text("700000000\n")
    monkeypatch.setattr(cgroup, "_MEMORY_OF_V1", tmp_path / "limit_in_bytes")
    assert cgroup.memory_limit_bytes() == 700_000_000
