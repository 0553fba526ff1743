"""A snapshot's tree as one file, to take it to another machine, and back into the store there.

Main entries: `write_pack`, `read_pack`, `has_tree`. Invariant: git checks every object that comes in by its
name, so a damaged file brings nothing.
"""

from pathlib import Path

from conjure.core.home import Home
from conjure.errors import SnapshotError
from conjure.runs.code.code_store import is_store, reference, store_in_use
from conjure.runs.code.git import GitError, own_git


def has_tree(home: Home, tree: str) -> bool:
    """Whether the store holds a tree and all that is in it."""
    if not is_store(home.code_repository):
        return False
    try:
        own_git(home.code_repository)("rev-list", "--objects", "--quiet", tree)
    except GitError:
        return False
    return True


def write_pack(home: Home, tree: str, folder: Path) -> Path:
    """Write all that a tree holds to a file in a folder.

    Raises:
        SnapshotError: The tree is not there, or the disk is full.
    """
    git = own_git(home.code_repository)
    name = git("pack-objects", "--revs", "-q", str(folder / "code"), stdin=f"{tree}\n".encode())
    return folder / f"code-{name.decode().strip()}.pack"


def read_pack(home: Home, number: int, tree: str, path: Path) -> None:
    """Take a file that `write_pack` wrote into the store, and keep its tree for run `number`.

    Raises:
        SnapshotError: It is damaged or holds another tree, or the disk is full.
    """
    with store_in_use(home):
        git = own_git(home.code_repository)
        with path.open("rb") as file:
            process = git.start("index-pack", "--stdin", "--fix-thin")
            with process:
                assert process.stdin is not None
                for piece in iter(lambda: file.read(1 << 20), b""):
                    process.stdin.write(piece)
                process.stdin.close()
                assert process.stderr is not None
                words = process.stderr.read().decode(errors="replace")
        if process.returncode != 0 or not has_tree(home, tree):
            raise SnapshotError(f"the code {tree[:12]} could not be read: {words.strip() or 'it is damaged'}")
        git("update-ref", reference(number), tree)
