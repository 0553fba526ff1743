"""A home's locks on NFS: what is open for reading can be shared, and had alone if open for writing.

Tried with a `flock` that refuses what NFS refuses.
"""

import errno
import fcntl
import os
import stat

import pytest

from conjure.core.files import is_locked, lock_or_close, locked, open_to_lock
from conjure.runs.code.code_store import store_in_use
from conjure.runs.environments import environment_locks
from conjure.runs.environments.environment_locks import building, unused
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.scheduling.scheduler_start import SchedulerLock

_REFUSED = {fcntl.LOCK_SH: os.O_WRONLY, fcntl.LOCK_EX: os.O_RDONLY}


@pytest.fixture(autouse=True)
def nfs(monkeypatch):
    """Locks as Linux has them on NFS; those of folders are the machine's own."""
    flock = fcntl.flock

    def refusing(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not is_folder and _REFUSED[operation & ~fcntl.LOCK_NB] == access:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)


def test_a_run_without_a_supervisor_can_be_taken(home):
    folder = home.create().run_folder(1)
    RunLock.create(folder).release()
    taken = RunLock.take_if_free(folder)
    assert taken is not None
    assert RunLock.take_if_free(folder) is None
    taken.release()


def test_code_is_recorded(home):
    with store_in_use(home):
        assert is_locked(home.code_repository / "conjure.lock") is False  # it is shared
        with locked(home.root / "other.lock"):
            assert is_locked(home.root / "other.lock")


def test_environments_are_built_and_used(home):
    home.create()
    digest = "a" * 32
    with building(home, digest, print), unused(home, digest) as is_free:
        assert not is_free
    environment_locks.mark_in_use(home, digest)
    assert not environment_locks.is_used_by_others(home, digest)
    os.close(environment_locks._in_use.pop((home, digest)))
    with unused(home, digest) as is_free:
        assert is_free


def test_the_scheduler_has_its_place(home):
    home.create()
    held = SchedulerLock.take_if_free(home)
    assert held is not None
    assert SchedulerLock.take_if_free(home) is None
    held.release()


def test_a_file_that_cannot_be_locked_is_not_said_to_be_held(tmp_path):
    (tmp_path / "lock").touch()
    descriptor = os.open(tmp_path / "lock", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock_or_close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_can_only_be_read_is_opened_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()
    opened = os.open

    def read_only(path, flags, *rest, **options):
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    os.close(open_to_lock(tmp_path / "lock"))
