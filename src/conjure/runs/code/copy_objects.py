"""Copying a commit's tree out of a repository of the user's, or out of a mirror, into conjure's own store.

Main entries: `list_tree`, `copy_tree`, `copy_same_files`. Invariant: only objects that the store lacks are
copied, and none of the history; what is in the store never depends on the repository it came from.
"""

import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from conjure.runs.code.code_files import is_lfs_pointer, lfs_warning, may_be_lfs_pointer
from conjure.runs.code.git import Git, GitError, finish, own_git, users_git

# The repository that has a submodule's commit, by the submodule's name in its parent; None: not to be had.
SubmoduleFinder = Callable[[bytes, str], Git | None]

_UNPACK_LIMIT = 100  # below it objects are stored one by one, above it as a pack, as `git fetch` does


@dataclass(slots=True)
class TreeFiles:
    """What a commit's tree holds.

    Attributes:
        source: The repository it is in.
        tree: Object name of the tree.
        objects: Names of every tree and blob in it.
        sizes: Bytes of each file by its name, submodules included.
        submodules: The trees that belong in place of its links to other repositories.
        warnings: What cannot be taken faithfully.
    """

    source: Git
    tree: str
    objects: set[bytes] = field(default_factory=set)
    sizes: dict[bytes, int] = field(default_factory=dict)
    submodules: "dict[bytes, TreeFiles]" = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def checked_out_submodule(root: Path) -> SubmoduleFinder:
    """Finds submodules where they are checked out below a repository's top folder."""

    def find(name: bytes, commit: str) -> Git | None:
        folder = root / os.fsdecode(name)
        if not (folder / ".git").exists():
            return None
        git = users_git(folder)
        try:
            git("cat-file", "-e", f"{commit}^{{commit}}")
        except GitError:
            return None
        return git

    return find


def list_tree(source: Git, commit: str, find_submodule: SubmoduleFinder, prefix: bytes = b"") -> TreeFiles:
    """The files of a commit, and of the submodules it names.

    Args:
        source: The repository that has the commit.
        commit: Anything it can resolve.
        find_submodule: Gives the repository of a submodule.
        prefix: Where the commit's files belong in the whole; for a submodule its name and a slash.

    Raises:
        GitError: The repository is damaged, or lacks some of them.
    """
    tree = source("rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()
    files = TreeFiles(source, tree, {tree.encode()})
    blobs: dict[bytes, bytes] = {}
    for line in filter(None, source("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", tree).split(b"\0")):
        facts, name = line.split(b"\t", 1)
        _, kind, identity, size = facts.split()
        if kind == b"commit":
            _add_submodule(files, name, identity.decode(), find_submodule, prefix)
            continue
        files.objects.add(identity)
        if kind == b"blob":
            if not size.isdigit():  # git writes BAD
                shown = os.fsdecode(prefix + name)
                raise GitError("ls-tree", f"the repository lacks the content of {shown}")
            blobs[name] = identity
            files.sizes[name] = int(size)
    _warn_of_lfs_pointers(files, blobs, prefix)
    return files


def _add_submodule(
    files: TreeFiles, name: bytes, commit: str, find_submodule: SubmoduleFinder, prefix: bytes
) -> None:
    source = find_submodule(prefix + name, commit)
    if source is None:
        where = f"{os.fsdecode(prefix + name)} at {commit[:12]}"
        files.warnings.append(f"submodule {where} is not available and stays empty")
        return
    inner = list_tree(source, commit, find_submodule, prefix + name + b"/")
    files.submodules[name] = inner
    files.sizes |= {name + b"/" + below: size for below, size in inner.sizes.items()}
    files.warnings += inner.warnings


def _warn_of_lfs_pointers(files: TreeFiles, blobs: Mapping[bytes, bytes], prefix: bytes) -> None:
    attributes = [
        identity for name, identity in blobs.items() if posixpath.basename(name) == b".gitattributes"
    ]
    if not any(b"filter=lfs" in content for content in read_blobs(files.source, attributes)):
        return
    small = [name for name in blobs if may_be_lfs_pointer(files.sizes[name])]
    contents = read_blobs(files.source, [blobs[name] for name in small])
    pointers = [
        prefix + name for name, content in zip(small, contents, strict=True) if is_lfs_pointer(content)
    ]
    if pointers:
        files.warnings.append(lfs_warning(pointers))


def read_blobs(git: Git, identities: list[bytes]) -> list[bytes]:
    """The content of small blobs, in order."""
    if not identities:
        return []
    output = git("cat-file", "--batch", stdin=b"\n".join(identities) + b"\n")
    contents, start = [], 0
    for _ in identities:
        header_end = output.index(b"\n", start)
        size = int(output[start:header_end].rsplit(b" ", 1)[1])
        contents.append(output[header_end + 1 : header_end + 1 + size])
        start = header_end + size + 2  # the newlines after header and content
    return contents


def copy_tree(store: Path, files: TreeFiles) -> str:
    """Copy what `list_tree` found into the bare repository `store`; the tree, submodules in place.

    Raises:
        GitError: The source is damaged, or the disk is full.
    """
    _copy_objects(own_git(store), files.source, files.objects)
    inner = {name: copy_tree(store, submodule) for name, submodule in files.submodules.items()}
    return _graft(store, files.tree, inner) if inner else files.tree


def copy_same_files(store: Path, source: Git, commit: str, sizes: Mapping[bytes, int]) -> None:
    """Copy the files that have the same size in a commit, and so most likely the same content.

    Of the commit's trees those are copied that hold nothing but such files.

    Args:
        store: The bare repository to copy into.
        source: The repository that has the commit.
        commit: Its name.
        sizes: Bytes of each file that is wanted, by its name.

    Raises:
        GitError: The source is damaged, or the disk is full.
    """
    same: dict[bytes, bytes] = {}
    mixed: set[bytes] = set()
    for line in filter(None, source("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit).split(b"\0")):
        facts, name = line.split(b"\t", 1)
        _, kind, identity, size = facts.split()
        if kind == b"tree" or size == b"%d" % sizes.get(name, -1):
            same[name] = identity
        else:
            while (name := posixpath.dirname(name)) not in mixed:
                mixed.add(name)
    _copy_objects(own_git(store), source, {same[name] for name in same.keys() - mixed})


def _copy_objects(store: Git, source: Git, objects: Iterable[bytes]) -> None:
    wanted = b"\n".join(objects) + b"\n"
    answers = store("cat-file", "--batch-check=%(objectname)", stdin=wanted).splitlines()
    missing = [answer.split()[0] for answer in answers if answer.endswith(b" missing")]
    if not missing:
        return
    with tempfile.TemporaryFile() as names:
        names.write(b"\n".join(missing) + b"\n")
        names.seek(0)
        with source.start("pack-objects", "--stdout", "-q", "--window=0", stdin=names) as packing:
            take = ("unpack-objects", "-q") if len(missing) < _UNPACK_LIMIT else ("index-pack", "--stdin")
            taking = store.start(*take, stdin=packing.stdout)
            assert packing.stdout is not None
            packing.stdout.close()  # if the other ends early, this one must hear of it
            _finish_both(packing, taking, take[0])


def _finish_both(packing: Popen[bytes], taking: Popen[bytes], name: str) -> None:
    try:
        finish(taking, name)
    except GitError:
        try:
            finish(packing, "pack-objects")
        except GitError as cause:
            if cause.words:  # ended because nobody took the pack any more, it says nothing
                raise cause from None
        raise
    finish(packing, "pack-objects")


def _graft(store: Path, tree: str, inner: Mapping[bytes, str]) -> str:
    with tempfile.TemporaryDirectory(dir=store, prefix=".graft-") as temporary:
        folder = Path(temporary)  # update-index wants a work tree, though it looks at nothing in it
        git = own_git(store, work_tree=folder, index=folder / "index")
        git("read-tree", tree)
        git("update-index", "-z", "--force-remove", "--stdin", stdin=b"\0".join(inner))
        for name, subtree in inner.items():
            git("read-tree", b"--prefix=" + name + b"/", subtree)
        return git("write-tree").decode().strip()
