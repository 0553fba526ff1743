"""The object store that code snapshots are kept in: a bare git repository in conjure's home.

Main entries: `store_in_use`, `hash_files`, `prune`, `repair_store`. Invariant: its settings, and nothing from
outside, decide how files become objects; what a snapshot writes is safe from `prune` until it has its
reference.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from conjure.core.files import locked, sha256_bytes
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.core.trees import tree_size_bytes
from conjure.errors import SnapshotError
from conjure.runs.code.git import GitError, own_git
from conjure.runs.host.process import find_process

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
_LET_GO = "conjure-let-go"
_PROVISIONAL = re.compile(r"-[0-9]{1,10}")
_PACKED_PROVISIONAL = re.compile(r"^[0-9a-f]+ refs/runs/(-[0-9]+)$", re.MULTILINE)
_ATTRIBUTES = "* !text !crlf !eol !filter !ident !working-tree-encoding\n"


@contextmanager
def store_in_use(home: Home) -> Iterator[None]:
    """Make the store if need be, and hold off `prune` until what is written has its reference."""
    if not home.code_repository.exists():
        _create_store(home)
    elif not is_store(home.code_repository):
        repair_store(home)
    with (home.code_repository / "conjure.lock").open("a+") as lock:  # NFS shares only what can be read
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
        _fill_store(repository)
        with suppress(OSError):  # another process was faster; its store is as good
            repository.rename(home.code_repository)


def _fill_store(repository: Path) -> None:
    own_git(repository)("init", "--quiet", "--bare", "--template=")
    with (repository / "config").open("a") as config:
        config.write(_CONFIG)
    (repository / "info").mkdir(exist_ok=True)
    (repository / "info" / "attributes").write_text(_ATTRIBUTES)


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


def prune(home: Home) -> int:
    """Free the objects that no run's reference reaches, and pack the others.

    Where nothing was written and nothing let go of since the last time, nothing is done.

    Returns:
        Bytes that were freed.

    Raises:
        SnapshotError: The store is damaged, or there is no room to pack it; what could be freed is.
    """
    if not is_store(home.code_repository):
        return 0
    with locked(home.code_repository / "conjure.lock"):
        _drop_provisional_references(home)
        if not _has_changed(home.code_repository):
            return 0
        before = tree_size_bytes(home.code_repository)
        shutil.rmtree(_index_folder(home), ignore_errors=True)  # kept indexes name objects that may go
        git = own_git(home.code_repository)
        try:
            git("prune", "--expire=now")  # first what makes room; an object in a pack goes with the next step
            git("pack-refs", "--all")
            git("repack", "-a", "-d", "-q")
            (home.code_repository / _LET_GO).unlink(missing_ok=True)
        except GitError as error:
            raise SnapshotError(f"the code store could not be packed: {error.reason}") from error
        finally:
            for path in home.code_repository.glob("objects/pack/tmp_*"):
                path.unlink(missing_ok=True)
        return max(before - tree_size_bytes(home.code_repository), 0)  # packed anew it may also grow a little


def mark_reference_removed(home: Home) -> None:
    """Remember that a reference went, so that the next `prune` looks for what it alone had kept."""
    with suppress(OSError):
        (home.code_repository / _LET_GO).touch()


def _has_changed(repository: Path) -> bool:
    """Whether packing could free anything: loose objects, several packs, a reference that went."""
    if (repository / _LET_GO).exists() or any((repository / "objects" / "pack").glob("tmp_*")):
        return True
    loose = any(True for _ in (repository / "objects").glob("[0-9a-f][0-9a-f]/*"))
    return loose or len(list((repository / "objects" / "pack").glob("*.pack"))) > 1


def provisional_references(home: Home) -> list[int]:
    """References under a process's number, made to find an identical run, whose process is gone."""
    loose = [path.name for path in (home.code_repository / "refs" / "runs").glob("-*")]
    packed = _PACKED_PROVISIONAL.findall(_packed_references(home))
    pids = {-int(name) for name in (*loose, *packed) if _PROVISIONAL.fullmatch(name)}
    return sorted(-pid for pid in pids if find_process(pid) is None)


def _drop_provisional_references(home: Home) -> None:
    for number in provisional_references(home):
        own_git(home.code_repository)("update-ref", "-d", reference(number))
        mark_reference_removed(home)


def _packed_references(home: Home) -> str:
    try:
        return (home.code_repository / "packed-refs").read_text(errors="replace")
    except OSError:
        return ""


def reference(number: int) -> str:
    """The reference that keeps run `number`'s code."""
    return f"refs/runs/{number}"


def is_store(repository: Path) -> bool:
    """Whether git would take the folder for a repository: an empty or half emptied one it does not."""
    return (repository / "HEAD").is_file() and all(
        (repository / name).is_dir() for name in ("objects", "refs")
    )


def repair_store(home: Home) -> bool:
    """Make what a repository needs and ours lacks, its settings too; what objects there are stay.

    Returns:
        Whether anything was missing.

    Raises:
        SnapshotError: Something is in the way, or the disk is full.
    """
    repository = home.code_repository
    if is_sound(home):
        return False
    with suppress(OSError):
        (repository / "config").unlink(missing_ok=True)
    for name in ("HEAD", "packed-refs"):
        with suppress(OSError):
            if b"\0" in (repository / name).read_bytes() or not (repository / name).stat().st_size:
                (repository / name).unlink()
    try:
        _fill_store(repository)
    except OSError as error:
        raise SnapshotError(
            f"{repository} cannot be repaired: {error_text(error, with_path=True)}"
        ) from error
    return True


def is_sound(home: Home) -> bool:
    """Whether the store is a repository with our settings that git can read the references of."""
    repository = home.code_repository
    if not is_store(repository):
        return False
    git = own_git(repository)
    try:
        git("rev-parse", "--is-bare-repository")
        git("for-each-ref", "--count=1")
        return git("config", "--local", "gc.auto").strip() == b"0"
    except GitError:
        return False


def missing_code(home: Home, trees: Mapping[int, str]) -> list[int]:
    """Runs whose recorded code the store does not hold any more.

    Args:
        home: Whose store.
        trees: The tree of each run.

    Raises:
        SnapshotError: The store cannot be read.
    """
    if not trees:
        return []
    if not is_store(home.code_repository):
        return sorted(trees)
    asked = "".join(f"{tree}\n" for tree in trees.values()).encode()
    told = own_git(home.code_repository)("cat-file", "--batch-check=%(objecttype)", stdin=asked)
    lines = told.decode(errors="replace").splitlines()
    return sorted(number for number, line in zip(trees, lines, strict=True) if line != "tree")
