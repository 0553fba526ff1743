"""Whether conjure's home, database and tools are in order, and rebuilding the database from the run folders.

Main entries: `examine`, `rebuild`. Invariant: looking mends nothing but runs whose carrier is gone, and a
fault in one place does not hide what is known of the others.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.units import format_size
from conjure.errors import BuildError, StoreError
from conjure.runs.database.connection import is_damaged
from conjure.runs.database.migrations import NEWEST
from conjure.runs.database.rows import RunFilter
from conjure.runs.database.sqlite import Store, folder_numbers
from conjure.runs.environments.uv import uv_program
from conjure.runs.host.gpus import GpuMeter
from conjure.runs.lifecycle.ownership import mark_interrupted
from conjure.runs.schema.status import RunStatus

_OLDEST_GIT = (2, 32)
_LITTLE_ROOM_BYTES = 1_000_000_000
_REINDEX = "conjure doctor --reindex"


class State(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing, and what to do about it."""

    name: str
    state: State
    text: str
    fix: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuilding the database did.

    Attributes:
        numbers: Runs whose rows are new.
        unreadable: Runs whose folder holds no readable record; their numbers are not given again.
        set_aside: Where the damaged file is now, or None if it was not damaged.
    """

    numbers: tuple[int, ...]
    unreadable: tuple[int, ...]
    set_aside: Path | None = None


def examine(home: Home) -> Iterator[Finding]:
    """Look at everything the run half needs, one thing after another."""
    yield _home(home)
    yield from _database(home)
    yield _disk(home)
    yield _git()
    yield _uv()
    yield _environments(home)
    yield _gpus()


def rebuild(home: Home) -> Rebuilt:
    """Make the database anew from the run folders; a damaged file is kept beside it.

    Raises:
        StoreError: The home cannot be written, or a newer conjure wrote the database.
    """
    aside = _set_aside(home) if is_damaged(home.database) else None
    with Store.open(home) as store:
        numbers, unreadable = store.reindex()
    return Rebuilt(tuple(numbers), tuple(unreadable), aside)


def _set_aside(home: Home) -> Path:
    path = home.database
    aside = next(
        candidate
        for candidate in (path.with_name(f"{path.name}.damaged-{count}") for count in range(1, 1 << 30))
        if not candidate.exists()
    )
    for ending in ("-wal", "-shm", ""):  # the file itself last: until then a crash changes nothing
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    return aside


def _home(home: Home) -> Finding:
    root = home.root
    if root.exists() and not root.is_dir():
        return Finding("home", State.FAULT, f"{root} is not a folder", f"set {HOME_VARIABLE} to a folder")
    if not root.exists():
        return Finding("home", State.OK, f"{root} (created by the first run)")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return Finding("home", State.FAULT, f"{root} cannot be written", f"chmod u+rwx {root}")
    if stat.S_IMODE(root.stat().st_mode) & 0o077:
        return Finding("home", State.WARNING, f"{root} can be read by others", f"chmod 700 {root}")
    return Finding("home", State.OK, str(root))


def _database(home: Home) -> Iterator[Finding]:
    if not home.database.exists() and not folder_numbers(home.runs):
        yield Finding("database", State.OK, "created by the first run")
        return
    try:
        if is_damaged(home.database):
            yield Finding("database", State.FAULT, f"{home.database} is damaged", _REINDEX)
            return
        with Store.open(home) as store:
            yield _integrity(store)
            yield _runs(store)
            yield from _strays(home, store)
    except StoreError as error:
        yield Finding("database", State.FAULT, str(error), error.fix)


def _integrity(store: Store) -> Finding:
    strays = store.stray_rows()
    if strays:
        return Finding("database", State.FAULT, "; ".join(strays), _REINDEX)
    return Finding("database", State.OK, f"schema {NEWEST}, no faults")


def _runs(store: Store) -> Finding:
    """How many runs there are; those that nobody carries any more are closed on the way."""
    before = store.active()
    mark_interrupted(store, before)
    after = [store.get(record.number) for record in before]
    closed = [record.number for record in after if record.status is RunStatus.INTERRUPTED]
    text = f"{_count(store.count(RunFilter(archived=True)), 'run')}, {len(store.active())} active"
    if closed:
        return Finding("runs", State.WARNING, f"{text}; closed as interrupted: {_numbers(closed)}")
    return Finding("runs", State.OK, text)


def _strays(home: Home, store: Store) -> Iterator[Finding]:
    rows, folders = store.numbers(), set(folder_numbers(home.runs))
    if folders - rows:
        text = f"run folders missing from the database:  {_numbers(sorted(folders - rows))}"
        yield Finding("run folders", State.WARNING, text, _REINDEX)
    if rows - folders:
        text = f"runs in the database without a folder: {_numbers(sorted(rows - folders))}"
        yield Finding("run folders", State.WARNING, text)


def _disk(home: Home) -> Finding:
    place = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    usage = shutil.disk_usage(place)
    text = f"{format_size(usage.free)} free of {format_size(usage.total)}"
    if usage.free < _LITTLE_ROOM_BYTES:
        return Finding("disk", State.WARNING, text, "conjure prune")
    return Finding("disk", State.OK, text)


def _git() -> Finding:
    version = _version("git", "--version")
    if version is None:
        return Finding("git", State.FAULT, "not installed; needed to record code", "install git")
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_GIT:
        wanted = ".".join(map(str, _OLDEST_GIT))
        return Finding("git", State.FAULT, f"{version} is older than {wanted}", "install a newer git")
    return Finding("git", State.OK, version)


def _uv() -> Finding:
    try:
        version = _version(uv_program(), "--version")
    except BuildError as error:
        return Finding("uv", State.FAULT, str(error), error.fix)
    if version is None:
        return Finding("uv", State.FAULT, "it cannot be run", "pip install --force-reinstall uv")
    return Finding("uv", State.OK, version)


def _version(*command: str) -> str | None:
    """The first version number a program tells of itself, or None if it cannot be run."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", told)
    return match[0] if match else None


def _environments(home: Home) -> Finding:
    built = [path for path in _entries(home.environments) if re.fullmatch("[0-9a-f]{32}", path.name)]
    return Finding("environments", State.OK, f"{len(built)} built")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _gpus() -> Finding:
    readings = GpuMeter().read()
    if not readings:
        return Finding("gpus", State.OK, "none found")
    names = (
        f"{gpu.name} ({format_size(gpu.total_bytes)})" if gpu.total_bytes else gpu.name for gpu in readings
    )
    return Finding("gpus", State.OK, ", ".join(names))


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _numbers(numbers: list[int], shown: int = 10) -> str:
    more = f" and {len(numbers) - shown:,} more" if len(numbers) > shown else ""
    return ", ".join(map(str, numbers[:shown])) + more
