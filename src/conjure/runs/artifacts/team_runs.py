"""What of runs lies in a team's object store beside files: code, logs, metrics, records; and its tidying.

Main entry: `TeamRuns`. Invariant: what was sent is written down after it is there; the record of a run in
the store is brought up to date by whoever finds it older than its row.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from conjure.core.files import parse_json
from conjure.core.home import Home
from conjure.errors import ConflictError, NotFoundError
from conjure.runs.artifacts.checkpoints import Checkpoint
from conjure.runs.artifacts.team_files import DamagedObjectError, SharedManifest, TeamFiles
from conjure.runs.code.snapshot_packs import write_pack
from conjure.runs.database.base import Link, RunFilter
from conjure.runs.database.record_files import record_from_dict, record_to_dict
from conjure.runs.objects import base
from conjure.runs.objects.base import ObjectStore
from conjure.runs.objects.index import YOUNG_S, Place, Streams, UploadRow
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.resource import KEPT_FILES, Resource
from conjure.runs.schema.run_folder import LOG_FILE, METRICS_FILE, RunFolder
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.metrics import metric_summaries, read_points

_AT_ONCE = 8
_INDEXED = ("blobs", "packs", "code", "manifests")
_NOTHING_SENT = Streams(0, 0, 0)


class TeamRuns(TeamFiles):
    """A team's files and what else is in its object store. Use one object per thread."""

    # ---- while a run goes on -------------------------------------------------------------------------------

    def send_inputs(self, home: Home, record: RunRecord) -> None:
        """Put the code and the local files that a run is given into the store, unless they are there."""
        if record.code is not None:
            self.send_code(home, record.code.tree)
        self.send_kept_files(home, record)

    def send_code(self, home: Home, tree: str) -> None:
        """Put a run's code into the store, unless it is there."""
        name = base.code(tree)
        if not tree or self.index.use([name]):
            return
        with tempfile.TemporaryDirectory(dir=home.root, prefix=".code-") as folder:
            path = write_pack(home, tree, Path(folder))
            self.index.claim([name])
            self.objects.put_file(name, path)
            self.index.add({name: Place(path.stat().st_size)})

    def send_kept_files(self, home: Home, record: RunRecord) -> None:
        """Put the local files that a run was given into the store, unless they are there."""
        for mount in record.mounts:
            resource = Resource.of_source(mount.source)
            if resource.kind == KEPT_FILES and (home.root / mount.source).is_file():
                self.store_file(home.root / mount.source, resource.name)

    def send_streams(self, folder: Path, number: int, attempt: int, sent: Streams | None = None) -> Streams:
        """Send what is new of a run's log and metrics, in whole lines.

        Args:
            folder: The run's.
            number: The run.
            attempt: Which of its supervisors this is.
            sent: What the last call gave.

        Raises:
            SupersededError: A later supervisor has the run.
        """
        before = sent if sent is not None and sent.attempt == attempt else _NOTHING_SENT
        lengths = []
        for name, have in ((LOG_FILE, before.log_bytes), (METRICS_FILE, before.metrics_bytes)):
            lengths.append(self._send_stream(folder / name, number, attempt, have))
        now = Streams(attempt, *lengths)
        if now != sent:
            self.index.set_streams(number, now)
        return now

    def _send_stream(self, path: Path, number: int, attempt: int, have: int) -> int:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return have
        with file:
            while True:
                start = have - have % base.SEGMENT_BYTES
                file.seek(start)
                piece = file.read(base.SEGMENT_BYTES)
                # A writer may take back a line that it could not finish.
                whole = len(piece) if len(piece) == base.SEGMENT_BYTES else piece.rfind(b"\n") + 1
                if start + whole <= have:
                    return have
                self.objects.put(base.segment(number, attempt, path.name, start), piece[:whole])
                have = start + whole
                if whole < base.SEGMENT_BYTES:
                    return have

    def note_attempt(self, number: int, place: int, attempt: int) -> None:
        """Let others find the log of an attempt at a run once another one has followed.

        Args:
            number: The run.
            place: Which attempt of the record's it is, from 1.
            attempt: Under which number its supervisor writes.
        """
        self.objects.put(base.attempt_object(number, place), json.dumps({"attempt": attempt}).encode())

    def attempt_at(self, number: int, place: int) -> int:
        """What `note_attempt` noted.

        Raises:
            MissingObjectError: Nothing.
        """
        return int(parse_json(self.objects.get(base.attempt_object(number, place)))["attempt"])

    def put_checkpoint(self, checkpoint: Checkpoint, number: int, attempt: int) -> None:
        """Let the next attempt at a run know of files, which are stored; only this attempt's own does so."""
        self.objects.put(base.checkpoint(number, attempt), json.dumps(asdict(checkpoint)).encode())

    def newest_checkpoint(self, number: int, before: int) -> tuple[int, Checkpoint] | None:
        """What the last attempt kept that kept anything: which attempt, and what.

        Args:
            number: The run.
            before: The attempt that asks.
        """
        for attempt in range(before - 1, 0, -1):
            try:
                stored = parse_json(self.objects.get(base.checkpoint(number, attempt)))
                return attempt, Checkpoint(**{name: stored[name] for name in Checkpoint.__dataclass_fields__})
            except base.MissingObjectError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DamagedObjectError(f"{base.checkpoint(number, attempt)} is damaged: {error}") from error
        return None

    # ---- records -------------------------------------------------------------------------------------------

    def export_records(self, limit: int = 100) -> int:
        """Bring records in the store up to date with the database, and the links; how many were not."""
        uploads = self.index.unexported_uploads(limit)
        for row in uploads:
            self.export_upload(row)
        changed = self.index.unexported(limit)
        for number, version in changed:
            if number == 0:
                links = [link._asdict() for link in self.database.links()]
                self.objects.put(base.LINKS_OBJECT, json.dumps({"links": links}).encode())
            else:
                try:
                    record = record_to_dict(self.database.get(number))
                except NotFoundError:
                    record = None  # its row went meanwhile
                if record is not None:
                    self.objects.put(base.record_object(number), json.dumps(record, indent=1).encode())
            self.index.note_exported(number, version)
        return len(changed) + len(uploads)

    # ---- rebuilding ----------------------------------------------------------------------------------------

    def rebuild(self) -> tuple[list[int], list[int]]:
        """Rebuild the rows of runs from their records; runs that the database has stay as they are.

        But a run ends once, and its files are removed once: where the record says so, and the row does not,
        the row is an older one that was restored from a backup.

        Returns:
            Numbers that were rebuilt, and numbers whose record cannot be read. Neither will be given again.
        """
        known, active = self.database.numbers(), self.database.active_numbers()
        interrupted, saved = self._interrupted(), self._saved()
        rebuilt: list[int] = []
        unreadable: list[int] = []
        manifests: set[str] = set()
        for record in self.records():
            if isinstance(record, int):
                unreadable.append(record)
            elif (
                record.number not in known
                or (record.number in active and record.status.is_final)
                or (record.number in interrupted and _ended_otherwise(record))
                or (record.number in saved and record.outputs is not None and record.outputs.removed)
            ):
                self.database.put_record(record)
                rebuilt.append(record.number)
                outputs = record.outputs
                if outputs is not None and outputs.manifest is not None and not outputs.removed:
                    manifests.add(outputs.manifest)
        self.database.session.skip_numbers(max([0, *rebuilt, *unreadable]))
        lacked = bool(rebuilt) or not known or self._lacks_uploads()
        self.rebuild_index(manifests)
        if lacked:
            self.rebuild_streams(rebuilt)
            for number in sorted(self.database.active_numbers() & set(rebuilt)):
                streams = self.index.streams(number)
                self.index.expect_heartbeat(number, 1 if streams is None else streams.attempt)
            for link in self.stored_links():
                with suppress(ConflictError):
                    self.database.set_link(link.name, link.resource)
        return rebuilt, unreadable

    def _interrupted(self) -> set[int]:
        """Runs that were closed for want of a supervisor, as one is whose row was just restored."""
        wanted = RunFilter(statuses=(RunStatus.INTERRUPTED,), archived=True)
        return {listed.number for listed in self.database.listing(wanted)}

    def _saved(self) -> set[int]:
        """Runs whose outputs are there, as their rows say."""
        return {size.number for size in self.database.sizes() if size.was_saved}

    def records(self) -> Iterator[RunRecord | int]:
        """Every record in the store; in the place of one that cannot be read, its number."""
        numbers = [base.number_of_record(name) for name in self.objects.names(base.RECORDS)]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            yield from threads.map(self._record, sorted(number for number in numbers if number is not None))

    def _record(self, number: int) -> RunRecord | int:
        try:
            record = record_from_dict(parse_json(self.objects.get(base.record_object(number))))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, base.MissingObjectError):
            return number
        return record if record.number == number else number

    def store_database(self, address: str) -> None:
        """Let the store know which database goes with it."""
        self.objects.put(base.TEAM_OBJECT, json.dumps({"format": 1, "database": address}).encode())

    def stored_links(self) -> list[Link]:
        """The links as the store has them."""
        try:
            stored = parse_json(self.objects.get(base.LINKS_OBJECT))["links"]
            return [
                Link(*(str(each[name]) for name in ("name", "resource", "created_at"))) for each in stored
            ]
        except (base.MissingObjectError, ValueError, KeyError, TypeError):
            return []

    def rebuild_index(self, manifests: set[str]) -> None:
        """Write down what is in the store and was not known, and forget what is not there.

        Args:
            manifests: Those of runs that were not known; those of such uploads are found here.
        """
        for name in self.objects.names(base.UPLOADS):
            row = self._upload_row(name)
            if row is not None and self.index.add_upload(row):
                manifests.add(row.manifest)
        since, known = self.index.known()
        found = {name for prefix in _INDEXED for name in self.objects.names(prefix)}
        missing = {
            name for name, pack in known.items() if (name if pack is None else base.pack(pack)) not in found
        }
        self.index.forget(missing, since)
        places = self._places(manifests, found)
        # What is known already may be going to be removed at this moment.
        new = places.keys() - (known.keys() - missing)
        self.index.add({name: places[name] for name in new})

    def _places(self, manifests: set[str], found: set[str]) -> dict[str, Place]:
        """Where the objects in the store are, and what is packed in them as far as some manifests tell."""
        places = {name: Place(0) for name in found}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for shared in threads.map(self._load_if_whole, sorted(manifests)):
                if shared is None:
                    continue  # whoever asks for these files is told
                places |= {
                    base.blob(digest): place
                    for digest, place in shared.places.items()
                    if place.pack is not None and base.pack(place.pack) in found
                }
                places |= {
                    base.blob(entry.digest): Place(entry.size_bytes)
                    for entry in shared.manifest.entries
                    if base.blob(entry.digest) in places and entry.digest not in shared.places
                }
        return places

    def _lacks_uploads(self) -> bool:
        """Whether the store has an upload that the database knows nothing of."""
        known = {base.upload_object(row.name, row.version) for row in self.index.uploads()}
        return any(name not in known for name in self.objects.names(base.UPLOADS))

    def _load_if_whole(self, digest: str) -> SharedManifest | None:
        try:
            return self.load(digest)
        except (base.MissingObjectError, DamagedObjectError):
            return None

    def rebuild_streams(self, numbers: Iterable[int]) -> None:
        """Write down anew how much of the logs and metrics of runs is in the store."""
        for number in numbers:
            found: dict[int, dict[str, tuple[str, int]]] = {}
            for name in self.objects.names(f"{base.RECORDS}/{number}"):
                _, _, *rest = name.split("/")
                if len(rest) == 3 and rest[0].isdecimal() and rest[2].isdecimal():
                    attempt = found.setdefault(int(rest[0]), {})
                    attempt[rest[1]] = max(
                        attempt.get(rest[1], ("", -1)), (name, int(rest[2])), key=lambda e: e[1]
                    )
            if found:
                newest = max(found)
                lengths = [
                    start + len(self.objects.get(name)) if name else 0
                    for name, start in (found[newest].get(each, ("", 0)) for each in (LOG_FILE, METRICS_FILE))
                ]
                self.index.restore_streams(number, Streams(newest, *lengths))
                self._rebuild_summaries(number, newest, lengths[1])

    def _rebuild_summaries(self, number: int, attempt: int, length: int) -> None:
        """Write down anew how a run's metrics stand, from so many bytes of them."""
        with tempfile.TemporaryDirectory(prefix="conjure-") as name:
            folder = RunFolder(Path(name))
            with folder.metrics.open("wb") as file:
                for start in range(0, length, base.SEGMENT_BYTES):
                    try:
                        file.write(self.objects.get(base.segment(number, attempt, METRICS_FILE, start)))
                    except base.MissingObjectError:
                        break
            self.database.set_summaries(number, metric_summaries(read_points(folder.path)).values())

    def _upload_row(self, name: str) -> UploadRow | None:
        try:
            stored = parse_json(self.objects.get(name))
            row = UploadRow(**{field: stored[field] for field in UploadRow.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, base.MissingObjectError):
            return None
        return row if row.is_sound() and base.upload_object(row.name, row.version) == name else None

    # ---- tidying -------------------------------------------------------------------------------------------

    def prune(self, *, unused_s: float = YOUNG_S) -> tuple[int, int]:
        """Remove objects that no run and no upload needs, and that nobody used for some days.

        Returns:
            How many, and how many bytes as far as they are known.
        """
        candidates = [name for name, in_pack in self.index.unused(unused_s) if in_pack is None]
        if not candidates:
            return 0, 0
        needed = self._needed()
        removed = size = 0
        for name in candidates:
            if name in needed or not self.index.begin_removal(name, unused_s):
                continue
            size_bytes = self.index.finish_removal(name, self.objects)
            removed += size_bytes is not None
            size += size_bytes or 0
        return removed, size

    def _needed(self) -> set[str]:
        manifests = self.index.manifests() | self._checkpoints_in_use()
        needed = {base.manifest(digest) for digest in manifests}
        needed |= {base.code(tree) for tree in self.database.code_trees().values()}
        for source in self.database.sources_in_use():
            resource = Resource.of_source(source)
            if resource.kind == KEPT_FILES:
                needed.add(base.blob(resource.name))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for objects in threads.map(lambda digest: self.load(digest).objects(), sorted(manifests)):
                needed |= objects
        return needed

    def _checkpoints_in_use(self) -> set[str]:
        """The manifests of what active runs keep for a next attempt."""
        kept = [
            self.newest_checkpoint(record.number, self.database.newest_attempt(record.number) + 1)
            for record in self.database.active()
            if record.spec.on is not None and record.spec.retry
        ]
        return {found[1].manifest for found in kept if found is not None}


def _ended_otherwise(record: RunRecord) -> bool:
    return record.status.is_final and record.status is not RunStatus.INTERRUPTED


def stored_database(objects: ObjectStore) -> str | None:
    """The address of the database that goes with a store, as the store knows it; None for a new one."""
    try:
        return str(parse_json(objects.get(base.TEAM_OBJECT))["database"])
    except (base.MissingObjectError, ValueError, KeyError, TypeError):
        return None


__all__ = ["SharedManifest", "TeamRuns", "stored_database"]
