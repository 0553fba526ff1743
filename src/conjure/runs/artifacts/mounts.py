"""Putting a resource into a run's working folder, as a private copy or as read-only links.

Main entry: `place_mount`. Invariant: nothing is written outside the working folder, and the resource itself
is never changed by what the run does to its mount.
"""

import os
import stat
from pathlib import Path

from conjure.core.dir_fd import Folder, FolderCursor, change_mode, walk
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.core.trees import Copied, copy_entry
from conjure.errors import MountError
from conjure.runs.artifacts.resource_paths import root_of


def place_mount(home: Home, source: Path, workdir: Folder, target: str, read_only: bool) -> Copied:
    """Put `source` at `target` in `workdir`.

    A copy may be written to by the run; it shares its blocks with the original where the filesystem can. Read
    only, files become links to the originals, and folders closed folders of such links.

    Args:
        home: Where conjure keeps things; links inside a resource may lead anywhere within that resource.
        source: What to put there, as `resources.resolve` found it, or a local file.
        workdir: The run's working folder.
        target: Where in it, relative, in POSIX form.
        read_only: Link instead of copying.

    Raises:
        MountError: Something is there already, the place is outside the folder, the disk is full …
    """
    try:
        parts = _parts(target)
        with FolderCursor(workdir) as descent:
            _refuse_links(descent, parts, target)
            _refuse_collisions(source, descent, parts, target, read_only)
            if read_only:
                return _link(source, descent, parts)
        return copy_entry(source, workdir, "/".join(parts), boundary=root_of(home, source) or source)
    except OSError as error:
        raise MountError(f"{source} could not be mounted at {target}: {error_text(error)}") from error


def _parts(target: str) -> list[str]:
    parts = Path(target).parts
    if not parts or Path(target).is_absolute() or ".." in parts or "\0" in target:
        raise MountError(
            f"{target!r} is not a path inside the working folder", hint="give one, as in runs/2:data"
        )
    return list(parts)


def _refuse_links(descent: FolderCursor, parts: list[str], target: str) -> None:
    for depth in range(1, len(parts)):
        if _kind(descent, parts[:depth]) == stat.S_IFLNK:
            raise MountError(
                f"cannot mount at {target}: {'/'.join(parts[:depth])} is a link in the code",
                hint="choose another path, as in RESOURCE:data",
            )


def _kind(descent: FolderCursor, parts: list[str]) -> int | None:
    """What stands at a path: its file type as in `stat`, or None for nothing."""
    try:
        folder = descent.go_to(parts[:-1])
        return stat.S_IFMT(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def _refuse_collisions(
    source: Path, descent: FolderCursor, parts: list[str], target: str, read_only: bool
) -> None:
    taken, kind = None, _kind(descent, parts)
    if kind is not None:
        taken = target
        if not read_only and source.is_dir() and kind == stat.S_IFDIR:
            taken = _first_collision(source, descent, parts, target)
    if taken is not None:
        raise MountError(
            f"cannot mount at {target}: {taken} already exists in the code",
            hint="choose another path, as in RESOURCE:data",
        )


def _first_collision(source: Path, descent: FolderCursor, parts: list[str], target: str) -> str | None:
    """The first file of `source` that would land on something; folders may be shared."""
    for name, entry in walk(source):
        kind = _kind(descent, [*parts, *name.split("/")])
        if kind is not None and not (entry.is_folder and kind == stat.S_IFDIR):
            return f"{target}/{name}"
    return None


def _link(source: Path, descent: FolderCursor, parts: list[str]) -> Copied:
    linked = Copied()
    folder = descent.go_to(parts[:-1], make=True)
    if not source.is_dir():
        os.symlink(source.absolute(), parts[-1], dir_fd=folder)
        linked.files += 1
        return linked
    os.mkdir(parts[-1], dir_fd=folder)
    folders = [parts]
    for name, entry in walk(source):
        there = [*parts, *name.split("/")]
        original = os.path.abspath(source / name)  # noqa: PTH100 - resolves no links
        if entry.is_folder:
            folders.append(there)
            os.mkdir(there[-1], dir_fd=descent.go_to(there[:-1]))
        elif entry.is_link and not _leads_inside(Path(original), source):
            linked.skipped.append(f"{name} is a link that points outside")
        else:
            os.symlink(original, there[-1], dir_fd=descent.go_to(there[:-1]))
            linked.files += 1
    # A folder of links rather than a link to the folder: what a run creates in it cannot reach the original.
    for made in reversed(folders):
        change_mode(descent.go_to(made[:-1]), made[-1], stat.S_IRUSR | stat.S_IXUSR)
    return linked


def _leads_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False
