"""The code a run starts from: taken as a git tree into conjure's own object store, and written out again.

A snapshot is one git tree, kept alive by the reference ``refs/runs/<number>`` in ``code.git``. The files of
the work tree are hashed straight into that store through an index of our own, so the user's repository is
only read, and may be deleted afterwards. The index is kept per source folder: an unchanged file costs one
`stat`. ``code.git/info/attributes`` switches off every filter and line-ending conversion, so content is taken
and given back byte for byte.

Main entries: `snapshot`, `checkout`. Invariant: a tree that has a reference is complete in ``code.git``.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from conjure.core.dir_fd import Folder
from conjure.core.files import real_path
from conjure.core.home import Home
from conjure.core.units import format_size
from conjure.errors import SnapshotError, UsageError, option
from conjure.runs.code import mirrors
from conjure.runs.code.code_files import (
    IGNORE_FILE,
    CodeFiles,
    Repository,
    find_repository,
    largest_parts,
    list_code_files,
)
from conjure.runs.code.code_store import (
    hash_files,
    is_store,
    kept_index,
    mark_reference_removed,
    reference,
    store_in_use,
    temporary_index,
)
from conjure.runs.code.copy_objects import checked_out_submodule, copy_same_files, copy_tree, list_tree
from conjure.runs.code.git import Git, GitError, own_git, users_git

SIZE_LIMIT_BYTES = 1_000_000_000
_MANY_FILES = 300
_NAME_LENGTH = 40  # of SHA-1 in hex, by which code.git names its objects

_PARTIAL = r"^(remote\..*\.promisor|extensions\.partialclone)$"

_MISSING_TREE = ("not a tree", "failed to unpack", "unable to read tree")


class CodeSnapshot(NamedTuple):
    """Code as it was when a run was submitted.

    Attributes:
        tree: Object name of the git tree in ``code.git``.
        commit: The commit it is, or is based on; None outside a repository or before the first commit.
        branch: The branch checked out, or None.
        dirty: Whether the tree holds changes or files that the commit does not.
        subfolder: Where the command starts, relative to the code's root; "" for the root itself.
        root_name: Name of the folder the code came from.
        warnings: What could not be taken faithfully, one sentence each.
        size_bytes: Bytes of all files.
    """

    tree: str
    commit: str | None
    branch: str | None
    dirty: bool
    subfolder: str
    root_name: str
    warnings: tuple[str, ...]
    size_bytes: int


def snapshot(
    home: Home, folder: Path, *, number: int, committed: bool = False, commit: str | None = None
) -> CodeSnapshot:
    """Record the code around `folder` and keep it for run `number`.

    Args:
        folder: Where the command is to start: inside a git repository or not.
        number: The run's number.
        committed: HEAD only, without uncommitted changes and untracked files.
        commit: A commit to take instead, exactly: anything git can resolve.

    Raises:
        SnapshotError: It is too large, a home folder, or cannot be read.
        UsageError: A commit is asked for that is not there.
    """
    folder = real_path(folder)
    repository = find_repository(folder, home)
    with store_in_use(home):
        if committed or commit is not None:
            taken = _take_commit(home, folder, repository, commit)
        else:
            taken = _take_work_tree(home, folder, repository)
        keep_tree(home, number, taken.tree)
    return taken


def snapshot_remote(home: Home, number: int, url: str, ref: str | None = None) -> CodeSnapshot:
    """Record the code of another repository and keep it for run `number`.

    Args:
        number: The run's number.
        url: The repository's address, or a path.
        ref: Branch, tag or commit; the default branch if None.

    Raises:
        SnapshotError: It cannot be reached, or is too large.
        UsageError: It has no such branch, tag or commit.
    """
    fetched = mirrors.fetch(home, mirrors.Address.parse(url), ref)
    files = list_tree(fetched.mirror, fetched.commit, mirrors.submodule_finder(home, fetched))
    _refuse_large(files.sizes, f"choose another {option('git_ref')}")
    with store_in_use(home):
        tree = copy_tree(home.code_repository, files)
        keep_tree(home, number, tree)
    return CodeSnapshot(
        tree=tree,
        commit=fetched.commit,
        branch=fetched.branch,
        dirty=False,
        subfolder="",
        root_name=fetched.address.name,
        warnings=tuple(files.warnings),
        size_bytes=files.size_bytes,
    )


def keep_tree(home: Home, number: int, tree: str) -> None:
    """Keep a tree that is already in the store for run `number` too.

    Raises:
        SnapshotError: The tree is not there.
    """
    _own(home)("update-ref", reference(number), tree)


def holds(home: Home, tree: str, path: Path) -> bool:
    """Whether a snapshot has anything at this path, relative to its root."""
    try:
        _own(home)("cat-file", "-e", f"{tree}:{'' if path == Path() else path.as_posix()}")
    except GitError:
        return False
    return True


def release_tree(home: Home, number: int) -> None:
    """Let go of run `number`'s code; `conjure prune` frees what no other run shares."""
    if is_store(home.code_repository):
        _own(home)("update-ref", "-d", reference(number))
        mark_reference_removed(home)


def checkout(home: Home, tree: str, destination: Folder) -> None:
    """Write a snapshot's files into an empty folder.

    Raises:
        SnapshotError: The tree is no longer kept, or the folder cannot be written.
    """
    with store_in_use(home), temporary_index(home) as index:
        git = own_git(home.code_repository, work_tree=_as_seen_by_others(destination), index=index)
        try:
            git("read-tree", "--reset", "-u", "--no-recurse-submodules", tree)
        except GitError as error:
            if any(words in error.words for words in _MISSING_TREE):
                raise SnapshotError(f"the code of this run is no longer stored (tree {tree})") from error
            raise SnapshotError(
                f"the code could not be written to {destination.path}: {error.reason}"
            ) from error


def _as_seen_by_others(folder: Folder) -> Path:
    """A path that leads programs which we start to the folder we hold."""
    return Path(f"/proc/{os.getpid()}/fd/{folder.descriptor}")


def _take_work_tree(home: Home, folder: Path, repository: Repository | None) -> CodeSnapshot:
    root = folder if repository is None else repository.root
    _refuse_home_folder(root, folder)
    files = list_code_files(root, in_repository=repository is not None, home=home)
    _refuse_large(files.sizes)
    if repository is not None and len(files.sizes) >= _MANY_FILES:
        _take_over_objects(home, repository, files)
    return CodeSnapshot(
        tree=_hash(home, root, files),
        commit=None if repository is None else repository.commit,
        branch=None if repository is None else repository.branch,
        dirty=repository is not None and (repository.changed or files.untracked),
        subfolder=_subfolder(folder, root),
        root_name=root.name,
        warnings=tuple(files.warnings),
        size_bytes=files.size_bytes,
    )


def _take_commit(home: Home, folder: Path, repository: Repository | None, commit: str | None) -> CodeSnapshot:
    if repository is None:
        asked = option("committed" if commit is None else "commit")
        raise UsageError(f"{asked} needs a git repository, and {folder} is not in one")
    resolved = _resolve_commit(repository, commit)
    if len(resolved) != _NAME_LENGTH:
        raise SnapshotError(
            f"{repository.root} uses SHA-256 object names; commits of such repositories cannot be copied",
            hint=f"leave out {option('commit')} and {option('committed')} to copy the files as they are",
        )
    files = list_tree(users_git(repository.root), resolved, checked_out_submodule(repository.root))
    _refuse_large(files.sizes, "remove large files from the commit")
    return CodeSnapshot(
        tree=copy_tree(home.code_repository, files),
        commit=resolved,
        branch=repository.branch if resolved == repository.commit else None,
        dirty=False,
        subfolder=_subfolder(folder, repository.root),
        root_name=repository.root.name,
        warnings=tuple(files.warnings),
        size_bytes=files.size_bytes,
    )


def _resolve_commit(repository: Repository, commit: str | None) -> str:
    if commit is None:
        if repository.commit is None:
            raise UsageError(
                f"{option('committed')} needs a commit, and {repository.root} has none yet",
                hint="make one: git add the files, then git commit",
            )
        return repository.commit
    try:
        if commit.startswith("-"):
            raise GitError("rev-parse", "an option is not a commit")
        git = users_git(repository.root)
        return git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    except GitError as error:
        raise UsageError(
            f"there is no commit {commit!r} in {repository.root}", fix="git log --oneline --all"
        ) from error


def _subfolder(folder: Path, root: Path) -> str:
    below = folder.relative_to(root)
    return "" if below == Path() else below.as_posix()


def _refuse_home_folder(root: Path, folder: Path) -> None:
    try:
        users_home = Path.home().resolve()
    except RuntimeError:
        return  # a user without a home folder
    if root != users_home and root not in users_home.parents:
        return
    what = "your home folder" if root == users_home else f"{root}, which contains your home folder"
    if root == folder:
        raise SnapshotError(
            f"this is {what}; a run would copy all of it", hint="cd to the project's own folder"
        )
    raise SnapshotError(
        f"the git repository around {folder} is {what}; a run would copy all of it",
        hint=f"{option('committed')} copies only committed files; `git init` here makes this folder its own"
        " repository",
    )


def _refuse_large(sizes: Mapping[bytes, int], remedy: str | None = None) -> None:
    total = sum(sizes.values())
    if total <= SIZE_LIMIT_BYTES:
        return
    advice = (
        f"list files the run does not need in {IGNORE_FILE}, or leave out untracked files with"
        f" {option('committed')}"
    )
    raise SnapshotError(
        f"the code to copy is {format_size(total)}, more than {format_size(SIZE_LIMIT_BYTES)};"
        f" largest: {largest_parts(sizes)}",
        hint=f"{remedy or advice}; for data, use `conjure upload` and {option('mounts')}",
    )


def _take_over_objects(home: Home, repository: Repository, files: CodeFiles) -> None:
    """Copy the files' objects as one pack before a repository's first snapshot.

    The files are then only read, not compressed and stored again one by one.
    """
    commit, git = repository.commit, users_git(repository.root)
    if commit is None or len(commit) != _NAME_LENGTH or kept_index(home, repository.root).exists():
        return
    with suppress(GitError):  # it only saves time
        if not _is_partial_clone(git):
            copy_same_files(home.code_repository, git, commit, files.sizes)


def _is_partial_clone(git: Git) -> bool:
    """Whether git would fetch objects that are missing, one by one."""
    try:
        return bool(git("config", "--get-regexp", _PARTIAL))
    except GitError:  # there is no such setting
        return False


def _hash(home: Home, root: Path, files: CodeFiles) -> str:
    try:
        return hash_files(home, root, files.sizes)
    except GitError as error:
        is_about_access = "Permission denied" in error.words
        raise SnapshotError(
            f"the code in {root} could not be recorded: {error.reason}",
            hint=f"make it readable, or add it to {IGNORE_FILE}" if is_about_access else None,
        ) from error


def _own(home: Home) -> Git:
    return own_git(home.code_repository)
