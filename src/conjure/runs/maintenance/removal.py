"""Removing what runs and uploads hold on disk, as long as nobody needs it.

Main entries: `remove`, `removable`. Invariant: a removed run keeps its record, its log and its metrics, and
its number is never given again.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from conjure.core.dir_fd import Folder, remove_entry
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.trees import remove_tree, tree_size_bytes
from conjure.errors import ConflictError, UsageError
from conjure.runs.artifacts.attempts import kept_attempt_folders
from conjure.runs.artifacts.resource_paths import parse
from conjure.runs.artifacts.run_folders import RunFolders, check_run_folder
from conjure.runs.artifacts.team_transfer import bring_upload_list
from conjure.runs.artifacts.uploads import remove_upload
from conjure.runs.code import snapshot
from conjure.runs.database.base import Database
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.schema.record import OutputFacts, RunRecord
from conjure.runs.schema.resource import LAST, Resource
from conjure.runs.schema.run_folder import BASELINE, OUTPUTS, REMOVED, WORK

_FILES = (OUTPUTS, WORK, BASELINE)
_PATIENCE_S = 10.0


def remove(home: Home, store: Database, text: str, *, force: bool = False) -> int:
    """Remove the files of a run or upload.

    Args:
        store: The store of that home.
        text: ``runs/N``, ``runs/last``, ``uploads/NAME`` or ``uploads/NAME@VERSION``.
        force: Also when ended runs or links need it; never what a run at work needs.

    Returns:
        Bytes that were freed.

    Raises:
        UsageError, NotFoundError: It is no such thing.
        ConflictError: The run has not ended, or others need it.
    """
    resource = removable(store, text)
    if resource.number is not None:
        return _remove_run(home, store, resource, force=force)
    bring_upload_list(home, resource.name)
    place = home.uploads / resource.name
    place = place if resource.version is None else place / str(resource.version)
    size = tree_size_bytes(place)
    if place.exists():
        _refuse_needed(store, resource, _runs_using(store, resource), force=force)
    remove_upload(home, resource.name, resource.version)
    return size


def removable(store: Database, text: str) -> Resource:
    """The run or upload whose files a text asks to remove.

    Raises:
        UsageError: It is a link, whose name does not say that what it leads to is to be removed; or only part
            of something.
        NotFoundError: It names nothing.
    """

    def lookup(name: str) -> str | None:
        target = store.lookup_link(name)
        if target is not None and not LAST.fullmatch(name):
            remove_files = shell_words("conjure", "rm", parse(target, store.lookup_link).owner)
            raise UsageError(
                f"{name} is a link to {target}; only the files of a run or an upload can be removed",
                hint=f"to remove those it leads to: {remove_files}",
                fix=shell_words("conjure", "unlink", name),
            )
        return target

    resource = parse(text, lookup)
    if resource.parts:
        raise UsageError(
            f"{text} is part of {resource.owner}, which can only be removed as a whole",
            fix=shell_words("conjure", "rm", resource.owner),
        )
    return resource


def _remove_run(home: Home, store: Database, resource: Resource, *, force: bool) -> int:
    number = int(resource.name)
    record = store.get(number)
    if not record.status.is_final:
        raise ConflictError(
            f"run {number} is {record.status}; its files are in use", fix=f"conjure stop {number}"
        )
    _refuse_needed(store, resource, store.users_of(number), force=force)
    check_run_folder(home.run_folder(number), "removed")
    # A run that has just ended has its supervisor for a moment.
    lock = RunLock.take_when_free(home.run_folder(number), patience_s=_PATIENCE_S)
    if lock is None:
        raise ConflictError(f"run {number} is being recovered", fix=f"conjure info {number}")
    try:
        # The record first: a crash after it leaves files that the next `rm` removes, not a record that lies.
        store.set_facts(number, outputs=replace(record.outputs or OutputFacts(), removed=True))
        return _remove_files(home, record)
    finally:
        lock.release()


def _remove_files(home: Home, record: RunRecord) -> int:
    number = record.number
    if not home.run_folder(number).is_dir():
        return _stored_size(record)  # another machine's; `conjure prune` there removes its copy
    with RunFolders(home.run_folder(number)) as folders:
        size = sum(tree_size_bytes(folders.run.here / name) for name in _FILES)
        for name in _FILES:
            _remove_at_once(folders.run, name)
    for kept in kept_attempt_folders(home.run_folder(number)):
        size += tree_size_bytes(kept)
        remove_tree(kept)
    snapshot.release_tree(home, number)
    return size


def _stored_size(record: RunRecord) -> int:
    return 0 if record.outputs is None or record.outputs.removed else record.outputs.size_bytes


def _remove_at_once(folder: Folder, name: str) -> None:
    """Take it out of sight in one step, then remove it; of a link, the link."""
    if folder.id_of(name) is not None:
        aside = f"{REMOVED}{name}"
        remove_entry(folder, aside)
        os.rename(name, aside, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        remove_entry(folder, aside)


def _runs_using(store: Database, resource: Resource) -> list[int]:
    """Runs that mounted this upload, in any of the versions meant."""
    found = set()
    for source, numbers in store.sources_in_use().items():
        used = Resource.of_source(source)
        same_version = resource.version is None or used.version in (None, resource.version)
        if (used.kind, used.name) == (resource.kind, resource.name) and same_version:
            found.update(numbers)
    return sorted(found)


def _refuse_needed(store: Database, resource: Resource, users: Iterable[int], *, force: bool) -> None:
    records = [store.get(number) for number in users]
    at_work = [record.number for record in records if not record.status.is_final]
    if at_work:
        raise ConflictError(
            f"{resource.owner} is in use by {_listed('run', at_work)}", fix=f"conjure wait {at_work[0]}"
        )
    ended = [record.number for record in records if record.outputs is None or not record.outputs.removed]
    links = [link.name for link in store.links() if _leads_to(link.resource, resource)]
    if force or not (ended or links):
        return
    needs = []
    if ended:
        needs.append(f"{_listed('run', ended)} used it")
    if links:
        needs.append(f"{_listed('link', links)} {'point' if links[1:] else 'points'} to it")
    raise ConflictError(
        f"{resource.owner} is still needed: {' and '.join(needs)}",
        fix=shell_words("conjure", "rm", "-f", resource.owner),
    )


def _listed(kind: str, names: Sequence[object]) -> str:
    """``run 3``, ``runs 3 and 4``, ``runs 3, 4 and 5``."""
    *rest, last = map(str, names)
    return f"{kind}s {', '.join(rest)} and {last}" if rest else f"{kind} {last}"


def _leads_to(text: str, resource: Resource) -> bool:
    target = parse(text, lambda _: None)
    same = (target.kind, target.name) == (resource.kind, resource.name)
    return same and (resource.version is None or target.version == resource.version)
