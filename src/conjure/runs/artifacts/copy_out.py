"""Getting files out: copying a resource to a folder of the user's.

Main entries: `plan_retrieval`, `retrieve`. Invariant: nothing that exists is overwritten unless told to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conjure.core.dir_fd import Folder, walk
from conjure.core.files import current_umask
from conjure.core.home import Home
from conjure.core.quoting import printable
from conjure.core.text import error_text, plural
from conjure.core.trees import Copied, copy_entry
from conjure.errors import ConflictError, StoreError, UsageError, option
from conjure.runs.artifacts.resource_paths import LinkLookup, resolve, root_of

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What is to be copied where.

    Attributes:
        source: The file or folder.
        destination: What the copy will be called.
        boundary: How far links in it may lead.
        in_the_way: Files that are there already, relative to the folder asked for.
    """

    source: Path
    destination: Path
    boundary: Path
    in_the_way: tuple[str, ...]

    def describe_conflict(self) -> str:
        """The files in the way, as words."""
        shown = ", ".join(map(printable, self.in_the_way[:_SHOWN]))
        more = len(self.in_the_way) - _SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def plan_retrieval(home: Home, resource: str, folder: Path, lookup_link: LinkLookup) -> Retrieval:
    """Find what a copy of a resource would do.

    Args:
        resource: A file, which is to lie in `folder`, or a folder, whose content is to lie in it.
        folder: A folder of the user's; made if missing.
        lookup_link: Gives what a link stands for.

    Raises:
        NotFoundError, UsageError: It cannot be resolved, or `folder` is a file.
        ConflictError: A folder is in the way of a file, or a file in that of a folder; or a run saved only
            some of the files.
    """
    source = resolve(home, resource, lookup_link)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder to copy into")
    boundary = root_of(home, source) or source
    if not source.is_dir():
        taken = folder / source.name
        if taken.is_dir() and not taken.is_symlink():
            raise ConflictError(f"{taken} is a folder; the file {source.name} cannot take its place")
        exists = taken.is_symlink() or taken.exists()
        return Retrieval(source, taken, boundary, (source.name,) if exists else ())
    return Retrieval(source, folder, boundary, tuple(_in_the_way(source, folder)))


def _in_the_way(source: Path, folder: Path) -> list[str]:
    found = []
    for name, entry in walk(source):
        there = folder / name
        exists = there.is_symlink() or there.exists()
        if entry.is_folder:
            if there.is_symlink():
                raise ConflictError(f"{there} is a link, and the resource has a folder of that name")
            if exists and not there.is_dir():
                raise ConflictError(f"{there} is a file, and the resource has a folder of that name")
        elif there.is_dir() and not there.is_symlink():
            raise ConflictError(f"{there} is a folder, and the resource has a file of that name")
        elif exists:
            found.append(name)
    return found


def retrieve(plan: Retrieval, *, overwrite: bool, watch: Callable[[Copied], None] | None = None) -> Copied:
    """Make the copy that was planned; it belongs to the user and may be written to.

    Returns:
        What was copied, and what of a folder was left out.

    Raises:
        ConflictError: Files are in the way, and `overwrite` is not set.
        StoreError: The copy cannot be made.
    """
    if plan.in_the_way and not overwrite:
        count = len(plan.in_the_way)
        raise ConflictError(
            f"{plural(count, 'file')} would be overwritten: {plan.describe_conflict()}",
            fix=option("overwrite", True),
        )
    try:
        is_folder = plan.source.is_dir()
        into, name = (plan.destination, "") if is_folder else (plan.destination.parent, plan.destination.name)
        into.mkdir(parents=True, exist_ok=True)
        with Folder.open(into, follow=True) as opened:  # the user's own; links below it are not followed
            copied = copy_entry(
                *(plan.source, opened, name),
                boundary=plan.boundary,
                overwrite=overwrite,
                umask=current_umask(),
                watch=watch,
            )
    except OSError as error:
        raise StoreError(f"{plan.source.name} could not be copied: {error_text(error)}") from error
    if copied.skipped and not is_folder:
        raise StoreError(f"{plan.source.name} could not be copied: {copied.skipped[0]}")
    return copied
