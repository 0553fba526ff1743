"""The object store that code snapshots are kept in: a bare git repository in conjure's home.

Main entries: `store_in_use`, `hash_files`, `prune`. Invariant: its settings, and nothing from outside, decide
how files become objects; what a snapshot writes is safe from `prune` until it has its reference.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.errors import SnapshotError
from conjure.runs.code.git import GitError, own_git

_CONFIG = """
[core]
	autocrlf = false
	safecrlf = false
	hooksPath = /dev/null
	protectNTFS = false
	protectHFS = false
	logAllRefUpdates = false
[gc]
	auto = 0
[maintenance]
	auto = false
"""
_ATTRIBUTES = "* !text !crlf !eol !filter !ident !working-tree-encoding\n"


@contextmanager
def store_in_use(home: Home) -> Iterator[None]:
    """Make the store if need be, and hold off `prune` until what is written has its reference."""
    if not home.code_repository.exists():
        _create_store(home)
    with (home.code_repository / "conjure.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield
        except SnapshotError:
            _remove_partial_objects(home, lock)
            raise


def _remove_partial_objects(home: Home, lock: IO[str]) -> None:
    """Remove what git leaves lying when the disk is full, unless another snapshot may be writing it."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in home.code_repository.glob("objects/*/tmp_*"):
            path.unlink(missing_ok=True)


def _create_store(home: Home) -> None:
    home.create()
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".code-", ignore_cleanup_errors=True) as temporary:
        repository = Path(temporary) / "code.git"
        own_git(repository)("init", "--quiet", "--bare", "--template=")
        with (repository / "config").open("a") as config:
            config.write(_CONFIG)
        (repository / "info").mkdir(exist_ok=True)
        (repository / "info" / "attributes").write_text(_ATTRIBUTES)
        with suppress(OSError):  # another process was faster; its store is as good
            repository.rename(home.code_repository)


def hash_files(home: Home, root: Path, names: Collection[bytes]) -> str:
    """Put files into the store, to be called while it is in use, and return their tree.

    Args:
        home: Whose store.
        root: The folder they are in.
        names: Their names relative to it.

    Raises:
        GitError: A file cannot be read, or the disk is full.
    """
    kept = kept_index(home, root)
    if kept.exists():
        with suppress(GitError):  # it may name objects that were pruned; a fresh index hashes all again
            return _hash_with(home, root, names, kept)
        kept.unlink(missing_ok=True)
    return _hash_with(home, root, names, kept)


def _hash_with(home: Home, root: Path, names: Collection[bytes], kept: Path) -> str:
    with temporary_index(home) as index:
        git = own_git(home.code_repository, work_tree=root, index=index)
        with suppress(FileNotFoundError):
            # With its times: git compares them with the files' to know which it must read again.
            shutil.copy2(kept, index)
            stale = set(filter(None, git("ls-files", "-z").split(b"\0"))) - set(names)
            if stale:
                git("update-index", "-z", "--force-remove", "--stdin", stdin=b"\0".join(stale))
        git("update-index", "-z", "--add", "--remove", "--replace", "--stdin", stdin=b"\0".join(names))
        tree = git("write-tree").decode().strip()
        if index.exists():  # there is none for an empty folder
            index.replace(kept)
        return tree


@contextmanager
def temporary_index(home: Home) -> Iterator[Path]:
    """A name for an index that is removed after the block."""
    folder = _index_folder(home)
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        yield Path(temporary) / "index"


def _index_folder(home: Home) -> Path:
    return home.code_repository / "conjure-indexes"


def kept_index(home: Home, root: Path) -> Path:
    """The index that remembers how the files of a folder were when they were last hashed."""
    return _index_folder(home) / sha256_bytes(os.fsencode(root))


def prune(home: Home) -> None:
    """Free the objects that no run's reference reaches."""
    if not home.code_repository.exists():
        return
    with (home.code_repository / "conjure.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(_index_folder(home), ignore_errors=True)  # kept indexes name objects that may go
        git = own_git(home.code_repository)
        git("repack", "-a", "-d", "-q")
        git("prune", "--expire=now")
