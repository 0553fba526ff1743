"""A commit's tree in the form that a snapshot has, so that comparing the two shows what somebody changed.

Main entry: `comparable_tree`. A snapshot holds a submodule's files where the commit has only the name of a
commit, and large files where the commit has Git LFS's pointers to them; it lacks what ``.conjureignore``
names. Invariant: what is written lies in the folder that the caller gives, and nowhere else.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from conjure.core.home import Home
from conjure.core.text import plural
from conjure.runs.code.code_files import IGNORE_FILE, is_lfs_pointer, may_be_lfs_pointer, parse_rules
from conjure.runs.code.copy_objects import checked_out_submodule, read_blobs
from conjure.runs.code.git import GITLINK, Git, GitError, own_git, users_git

_ALTERNATES = "GIT_ALTERNATE_OBJECT_DIRECTORIES"


class ComparableTree(NamedTuple):
    """A tree to compare a snapshot with.

    Attributes:
        git: Git that finds it, and what is in it.
        tree: Its name.
        left_out: What is as in the snapshot because it cannot be compared, one sentence each.
    """

    git: Git
    tree: str
    left_out: tuple[str, ...]


def comparable_tree(home: Home, commit: str, tree: str, folder: Path, scratch: Path) -> ComparableTree:
    """A commit in the form of a snapshot that is based on it.

    Args:
        home: Whose store has the snapshot.
        commit: The commit's name.
        tree: The snapshot's tree.
        folder: A folder in the user's repository, which has the commit.
        scratch: An empty folder.

    Raises:
        GitError: The commit or the snapshot is not there any more.
    """
    (scratch / "objects").mkdir()
    git = own_git(home.code_repository, work_tree=scratch, index=scratch / "index")
    variables = {
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        _ALTERNATES: str(home.code_repository / "objects"),
    }
    git = Git(git.settings, {**git.variables, **variables})
    root = folder
    with suppress(GitError):
        users = users_git(folder)
        root = Path(os.fsdecode(users("rev-parse", "--show-toplevel").removesuffix(b"\n")))
        git = _reading_too(git, users)
    git("read-tree", f"{commit}^{{tree}}")
    git, left_out = _fill_submodules(git, tree, root)
    left_out += _drop_ignored_files(git, tree)
    left_out += _take_lfs_files(git, tree)
    return ComparableTree(git, git("write-tree", "--missing-ok").decode().strip(), tuple(left_out))


def _reading_too(git: Git, other: Git) -> Git:
    """Git that also finds what is in another repository."""
    objects = other("rev-parse", "--path-format=absolute", "--git-path", "objects").removesuffix(b"\n")
    known = git.variables[_ALTERNATES]
    return Git(git.settings, {**git.variables, _ALTERNATES: f"{known}:{os.fsdecode(objects)}"})


def _fill_submodules(git: Git, tree: str, root: Path) -> tuple[Git, list[str]]:
    """Put the files of submodules, and of submodules in them, in their places in the index."""
    find, left_out = checked_out_submodule(root), []
    while links := dict(_links(git)):
        git("update-index", "-z", "--force-remove", "--stdin", stdin=b"\0".join(links))
        for name, commit in links.items():
            source = find(name, commit)
            if source is not None:
                git = _reading_too(git, source)
                git("read-tree", b"--prefix=" + name + b"/", f"{commit}^{{tree}}")
                continue
            with suppress(GitError):  # it is not in the snapshot either
                git("read-tree", b"--prefix=" + name + b"/", tree.encode() + b":" + name)
                where = f"{os.fsdecode(name)} at {commit[:12]}"
                left_out.append(f"submodule {where} is not here, and is left out of the comparison")
    return git, left_out


def _links(git: Git) -> Iterator[tuple[bytes, str]]:
    """The submodules in the index: name and commit of each."""
    for line in filter(None, git("ls-files", "-z", "--stage").split(b"\0")):
        facts, name = line.split(b"\t", 1)
        mode, commit, _ = facts.split(b" ")
        if mode == GITLINK:
            yield name, commit.decode()


def _drop_ignored_files(git: Git, tree: str) -> list[str]:
    """Take tracked files out of the index that the user keeps out of runs."""
    try:
        rules = parse_rules(git("cat-file", "blob", f"{tree}:{IGNORE_FILE}"), Path(IGNORE_FILE))
    except GitError:
        return []
    only_in_commit = git(
        "diff-index", "--cached", "--no-renames", "--name-only", "--diff-filter=A", "-z", tree
    )
    if not rules or not only_in_commit:
        return []
    options = [f"--exclude={rule}" for rule in rules]
    ignored = set(git("ls-files", "-z", "--cached", "--ignored", *options).split(b"\0"))
    dropped = sorted(ignored & set(only_in_commit.split(b"\0")) - {b""})
    if not dropped:
        return []
    git("update-index", "-z", "--force-remove", "--stdin", stdin=b"\0".join(dropped))
    return [f"{_counted(dropped)} kept out of runs by {IGNORE_FILE}, and left out of the comparison"]


def _take_lfs_files(git: Git, tree: str) -> list[str]:
    """Put the snapshot's files in the places of pointers to them."""
    words = iter(git("diff-index", "--cached", "--no-renames", "-z", tree).split(b"\0")[:-1])
    changed = {}
    for facts, name in zip(words, words, strict=True):
        mode, _, ours, theirs, kind = facts.removeprefix(b":").split(b" ")
        if kind == b"M":
            changed[name] = mode, ours, theirs
    pointers = _pointers(git, [theirs for _, _, theirs in changed.values()])
    taken = {name: facts for name, facts in changed.items() if facts[2] in pointers}
    if not taken:
        return []
    entries = (b"%b %b\t%b\0" % (mode, ours, name) for name, (mode, ours, _) in taken.items())
    git("update-index", "-z", "--index-info", stdin=b"".join(entries))
    return [f"{_counted(sorted(taken))} stored by Git LFS, and left out of the comparison"]


def _counted(names: Sequence[bytes]) -> str:
    """``1 file (a.bin) is``, ``4 files (a.bin, b.bin, c.bin, …) are``."""
    shown = ", ".join(os.fsdecode(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
    return f"{plural(len(names), 'file')} ({shown}) {'is' if len(names) == 1 else 'are'}"


def _pointers(git: Git, blobs: list[bytes]) -> set[bytes]:
    """Those blobs that are pointers of Git LFS."""
    asked = b"".join(blob + b"\n" for blob in blobs)
    told = git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked).splitlines()
    sizes = dict(line.split(b" ") for line in told)
    small = [blob for blob, size in sizes.items() if size.isdigit() and may_be_lfs_pointer(int(size))]
    return {
        blob for blob, content in zip(small, read_blobs(git, small), strict=True) if is_lfs_pointer(content)
    }
