"""Putting a resource into a run's working folder, as a private copy or as read-only links.

Main entry: `place`. Invariant: nothing is written outside the working folder, and the resource itself is
never changed by what the run does to its mount.
"""

import os
import stat
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import MountError
from conjure.runs.resources import root_of
from conjure.runs.trees import Copied, copy_entry, walk


def place(home: Home, source: Path, workdir: Path, target: str, read_only: bool) -> Copied:
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
        destination = _destination(workdir, target)
        _refuse_collisions(source, destination, target, read_only)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if read_only:
            return _link(source, destination)
        return copy_entry(source, destination, boundary=root_of(home, source) or source)
    except OSError as error:
        raise MountError(f"{source} could not be put at {target}: {error.strerror or error}") from error


def _destination(workdir: Path, target: str) -> Path:
    parts = Path(target).parts
    if not parts or Path(target).is_absolute() or ".." in parts or "\0" in target:
        raise MountError(f"{target!r} is not a place inside the working folder", fix="-m runs/2:data")
    place = workdir
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            raise MountError(
                f"cannot mount at {target}: {place.relative_to(workdir)} is a link in the code",
                fix="choose another path, as in -m RESOURCE:data",
            )
    return workdir / Path(*parts)


def _refuse_collisions(source: Path, destination: Path, target: str, read_only: bool) -> None:
    taken = None
    if destination.is_symlink() or destination.exists():
        taken = target
        if not read_only and source.is_dir() and destination.is_dir() and not destination.is_symlink():
            taken = _first_collision(source, destination, target)
    if taken is not None:
        raise MountError(
            f"cannot mount at {target}: the code has {taken} already",
            fix="choose another path, as in -m RESOURCE:data",
        )


def _first_collision(source: Path, destination: Path, target: str) -> str | None:
    """The first file of `source` that would land on something; folders may be shared."""
    for name, entry in walk(source):
        there = destination / name
        both_folders = entry.is_dir(follow_symlinks=False) and there.is_dir() and not there.is_symlink()
        if (there.is_symlink() or there.exists()) and not both_folders:
            return f"{target}/{name}"
    return None


def _link(source: Path, destination: Path) -> Copied:
    linked = Copied()
    if not source.is_dir():
        destination.symlink_to(source.absolute())
        linked.files += 1
        return linked
    folders = [destination]
    destination.mkdir()
    for name, entry in walk(source):
        if entry.is_dir(follow_symlinks=False):
            folders.append(destination / name)
            folders[-1].mkdir()
        elif entry.is_symlink() and not _leads_inside(Path(entry.path), source):
            linked.skipped.append(f"{name} is a link that leads outside")
        else:
            (destination / name).symlink_to(os.path.abspath(entry.path))  # noqa: PTH100 - resolves no links
            linked.files += 1
    # A folder of links rather than a link to the folder: what a run creates in it cannot reach the original.
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    return linked


def _leads_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False
