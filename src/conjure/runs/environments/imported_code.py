"""Code that a command may import from outside its snapshot: packages installed by reference, PYTHONPATH.

It is edited in its place, so what was imported is told by the names, sizes and times of the files there.

Main entries: `places_outside`, `digest_of_files`. Invariant: what changes a file changes the digest;
where it would take too long to look at all files, there is none.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from conjure.core.dir_fd import Entry, walk
from conjure.core.files import real_path, sha256_bytes
from conjure.core.globs import DEFAULT_EXCLUSIONS, GlobSet
from conjure.core.home import Home
from conjure.runs.environments.interpreter import Interpreter

MOST_FILES = 10_000  # and folders, a tenth of a second; PYTHONPATH may name somebody's whole home folder
LONGEST_S = 2.0  # on a disk that is slow or far away
_LEFT_OUT = GlobSet(DEFAULT_EXCLUSIONS)


def places_outside(
    home: Home, interpreter: Interpreter | None, variables: Mapping[str, str]
) -> tuple[Path, ...]:
    """Folders (and archives) from which a command may import beside its own code and its environment.

    Args:
        home: Whose runs' folders do not count: commands do not get them from the run they are started in.
        interpreter: What the environment stands on, or None if that adds nothing.
        variables: The caller's environment; relative folders in PYTHONPATH are part of the code.
    """
    found = [Path(place) for place in variables.get("PYTHONPATH", "").split(os.pathsep)]
    if interpreter is not None:
        own = (interpreter.prefix, interpreter.base_prefix, *interpreter.site_folders)
        found += [path for path in interpreter.search_path if not any(map(path.is_relative_to, own))]
        found += interpreter.editable_folders
    known = (path for path in found if path.is_absolute() and not path.is_relative_to(home.runs))
    return tuple(dict.fromkeys(known))


def digest_of_files(places: Iterable[Path]) -> str | None:
    """What changes when a file in one of these places does: "" where there are none; None for too many.

    Looking at them is given up after a while, too.
    """
    lines = []
    until = time.monotonic() + LONGEST_S
    for seen, (path, facts) in enumerate(_files(places)):
        if seen >= MOST_FILES or time.monotonic() > until:
            return None
        if not stat.S_ISDIR(facts.st_mode):  # a folder changes when Python keeps bytecode in it
            lines.append(f"{path}\0{facts.st_size} {facts.st_mtime_ns}")
    return sha256_bytes("\n".join(lines).encode(errors="surrogateescape")) if lines else ""


def _files(places: Iterable[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in these places, folders too; what cannot be read cannot be imported either.

    Links are followed, from the places to other folders and no further: a package may be linked to.
    """
    linked: dict[Path, None] = {}
    for place in places:
        with suppress(OSError):
            facts = place.stat()
            yield str(place), facts
            if stat.S_ISDIR(facts.st_mode):
                yield from _files_below(place, linked)
    for folder in linked:
        with suppress(OSError):
            yield from _files_below(folder, {})


def _files_below(folder: Path, linked: dict[Path, None]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in a folder; the folders elsewhere that links in it lead to are added to `linked`."""

    def enter(name: str, entry: Entry) -> bool:
        return not entry.name.startswith(".") and not _LEFT_OUT.matches(name)  # caches of tools are hidden

    own = real_path(folder)
    for name, entry in walk(folder, enter=enter, on_error=lambda *_: None):
        if _LEFT_OUT.matches(name):
            continue
        with suppress(OSError):
            yield f"{folder}/{name}", entry.stat()
            if entry.is_link:
                target = os.stat(entry.name, dir_fd=entry.folder)
                if not stat.S_ISDIR(target.st_mode):
                    yield f"{folder}/{name} as linked", target
                elif not (real := real_path(folder / name)).is_relative_to(own):
                    linked[real] = None
