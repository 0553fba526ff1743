"""Freeing what can be had again, and what no run needs any more.

Main entry: `prune`. Invariant: outputs, records, logs, metrics and uploads are never touched, and neither is
anything a run at work uses.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conjure.core.home import Home
from conjure.core.trees import remove_tree, tree_size_bytes
from conjure.runs.artifacts.mount_sources import KEPT_FILES
from conjure.runs.artifacts.resource_paths import versions
from conjure.runs.artifacts.run_folders import WORK, RunFolders
from conjure.runs.code import code_store, mirrors
from conjure.runs.database.rows import RunFilter
from conjure.runs.database.sqlite import Store, folder_numbers
from conjure.runs.environments import environment_build
from conjure.runs.lifecycle.execution import BASELINE
from conjure.runs.lifecycle.ownership import RunLock

_YOUNG_S = 3600
_LEFT_BEHIND = (".code-*", "runs/*/.removed-*", "uploads/*/.new-*", "git/tmp*")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was freed.

    Attributes:
        environments: Built environments.
        working_folders: Numbers of the runs whose working folders are gone.
        kept_files: Local files that no run was given.
        mirrors: Copies of remote repositories.
        size_bytes: All of it, with the code that no run started from.
    """

    environments: int
    working_folders: tuple[int, ...]
    kept_files: int
    mirrors: int
    size_bytes: int


def recoverable(home: Home, store: Store) -> list[int]:
    """Ended runs whose outputs were never saved, and still could be by `conjure recover`."""
    return [
        number
        for number in _with_working_folder(home, store)
        if (home.run_folder(number) / BASELINE).exists()
    ]


def _with_working_folder(home: Home, store: Store) -> list[int]:
    """Ended runs whose working folders are still there."""
    at_work = {record.number for record in store.active()}
    numbers = (number for number in folder_numbers(home.runs) if number not in at_work)
    return [number for number in numbers if _is_folder(home.run_folder(number) / WORK)]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def prune(home: Home, store: Store, *, everything: bool = False, now: float | None = None) -> Pruned:
    """Free environments, working folders, files and code that no run needs.

    Args:
        home: Where conjure keeps things.
        store: The store of that home.
        everything: Also what ended runs used but can be had again: environments and mirrors.
        now: The time, seconds since the epoch; what is younger than an hour may belong to a run being cast.
    """
    size = 0
    long_ago = (time.time() if now is None else now) - _YOUNG_S
    folders = []
    for number in _with_working_folder(home, store):
        with RunLock.possession(home.run_folder(number)) as ours:
            if ours:  # nobody is recovering it at this moment
                freed = _remove_working_folder(home.run_folder(number))
                if freed is not None:
                    folders.append(number)
                    size += freed
    files = [path for path in _unused_files(home, store) if _changed_at(path) < long_ago]
    left_behind = [path for path in _left_behind(home) if _changed_at(path) < long_ago]
    size += sum(map(_remove, (*files, *left_behind)))
    shared = (home.environments, home.mirrors, home.code_repository)
    baseline = list(map(tree_size_bytes, shared))
    environments = environment_build.prune(home, _needed_environments(store, everything=everything))
    removed_mirrors = mirrors.prune(home) if everything else []
    code_store.prune(home)
    # A store that is packed anew may also grow a little.
    size += sum(max(was - tree_size_bytes(place), 0) for was, place in zip(baseline, shared, strict=True))
    return Pruned(len(environments), tuple(folders), len(files), len(removed_mirrors), size)


def _remove_working_folder(run_folder: Path) -> int | None:
    """Remove a run's own working folder; the bytes it held, None where another stands in its place."""
    with RunFolders(run_folder) as folders:
        size = tree_size_bytes(folders.run.here / WORK)
        return size if folders.remove_work() else None


def _remove(path: Path) -> int:
    """Remove it; the bytes it held."""
    size = tree_size_bytes(path)
    remove_tree(path)
    return size


def _needed_environments(store: Store, *, everything: bool) -> set[str]:
    records = store.active() if everything else store.select(RunFilter(archived=True))
    return {
        record.environment.digest
        for record in records
        if record.environment is not None and not (record.outputs is not None and record.outputs.removed)
    }


def _changed_at(path: Path) -> float:
    return path.lstat().st_ctime


def _unused_files(home: Home, store: Store) -> Iterator[Path]:
    kept = home.root / KEPT_FILES
    used = {
        Path(source).parts[-2] for source in store.sources_in_use() if source.startswith(f"{KEPT_FILES}/")
    }
    return (path for path in sorted(kept.glob("*")) if path.name not in used)


def _left_behind(home: Home) -> Iterator[Path]:
    """What processes left that were killed in the middle of something, and uploads without a version."""
    for pattern in _LEFT_BEHIND:
        yield from home.root.glob(pattern)
    for folder in home.uploads.glob("*"):
        if not versions(home, folder.name):
            yield folder
