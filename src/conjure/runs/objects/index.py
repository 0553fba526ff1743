"""What is known of a team's objects, in its database: nothing is listed in the store, or asked one by one.

Main entry: `ObjectIndex`. Invariant: a row is written after its object and removed after it, and who means to
use an object touches its row first, if that was not done within the hour: a removal passes over what was
touched in the last days, and what is being removed is not there for anybody. So an object that a row names
without `going` is there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conjure.errors import ConflictError
from conjure.runs.database.base import SupersededError
from conjure.runs.database.postgres import PostgresSession
from conjure.runs.objects import base
from conjure.runs.schema.resource import is_upload_name

_BATCH = 2000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_INTEGER = (1 << 31) - 1  # of a column
_UPLOAD_COLUMNS = "name, version, kind, files, size_bytes, created_at, source, manifest, removed"
YOUNG_S = 7 * 24 * 3600.0  # an upload that takes longer than this is lost to a removal
FRESH_S = 3600.0  # writing a row again and again is most of the work where nothing has changed


@dataclass(frozen=True, slots=True)
class Place:
    """Where a content lies: an object of its own, or a stretch of a pack.

    Attributes:
        size_bytes: How long it is.
        pack: The pack's digest, or None.
        start: Where in the pack it begins.
    """

    size_bytes: int
    pack: str | None = None
    start: int = 0


@dataclass(frozen=True, slots=True)
class Streams:
    """How much of a run's log and metrics is in the object store.

    Attributes:
        attempt: Of which of its supervisors.
        log_bytes: Length of the log there.
        metrics_bytes: Length of the metrics there.
    """

    attempt: int
    log_bytes: int
    metrics_bytes: int


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A version of an upload; `manifest` is the digest of the list of its files, `kind` folder or file."""

    name: str
    version: int
    kind: str
    files: int
    size_bytes: int
    created_at: float
    source: str
    manifest: str
    removed: bool = False

    def is_sound(self) -> bool:
        """Whether a version can have this row: it is a teammate's, and its name becomes a path here."""
        numbers = (self.version, self.files, self.size_bytes)
        texts = (self.name, self.source, self.manifest)
        return (
            all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
            and all(type(text) is str for text in texts)
            and (type(self.created_at), type(self.removed)) == (float, bool)
            and 1 <= self.version <= _MAX_INTEGER
            and self.files <= _MAX_INTEGER
            and self.kind in ("folder", "file")
            and is_upload_name(self.name)
            and _DIGEST.fullmatch(self.manifest) is not None
        )


class ObjectIndex:
    """The rows about objects. Use one object per thread.

    Args:
        session: A connection to the team's database.
    """

    def __init__(self, session: PostgresSession) -> None:
        self._session = session

    # ---- the store itself ----------------------------------------------------------------------------------

    def objects_address(self) -> str | None:
        """The object store that belongs to the database; None where there is none, or not yet."""
        rows = self._session.query("SELECT objects FROM team")
        return rows[0]["objects"] if rows else None

    def set_objects_address(self, address: str) -> None:
        """Have an object store belong to the database, for good.

        Raises:
            ConflictError: Another one does.
        """
        self._session.execute(
            "INSERT INTO team (one, objects) VALUES (1, ?) ON CONFLICT (one) DO NOTHING", (address,)
        )
        self._session.execute(
            "INSERT INTO unexported (run, version) SELECT number, 1 FROM runs UNION SELECT 0, 1"
            " ON CONFLICT DO NOTHING"
        )
        found = self.objects_address()
        if found != address:
            raise ConflictError(f"the files of this database are in {found}", fix="conjure team join --help")

    def size(self) -> tuple[int, int]:
        """How many objects there are, and their bytes."""
        row = self._session.query(
            "SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS size FROM objects"
            " WHERE pack IS NULL"
        )[0]
        return row["count"], row["size"]

    # ---- objects -------------------------------------------------------------------------------------------

    def use(self, names: Iterable[str]) -> dict[str, Place]:
        """Those of the objects that are there, with their places; they stay for some days from now."""
        found: dict[str, Place] = {}
        for some in _batches(names):
            rows = self._session.transact(lambda some=some: self._touch(some))
            found |= rows
        return found

    def _touch(self, names: list[str]) -> dict[str, Place]:
        # In order, so that two who use the same objects do not wait for each other.
        rows = self._session.query(
            "WITH given AS (SELECT ?::text[] AS names, extract(epoch FROM clock_timestamp()) - ? AS since),"
            " touched AS (UPDATE objects SET last_used = extract(epoch FROM clock_timestamp())"
            " WHERE name IN (SELECT name FROM objects WHERE name = ANY((SELECT names FROM given)::text[])"
            " AND going = 0 AND last_used < (SELECT since FROM given) ORDER BY name FOR UPDATE) AND going = 0"
            " RETURNING name, size_bytes, pack, start)"
            " SELECT name, size_bytes, pack, start FROM touched"
            " UNION ALL SELECT name, size_bytes, pack, start FROM objects"
            " WHERE name = ANY((SELECT names FROM given)::text[])"
            " AND going = 0 AND last_used >= (SELECT since FROM given)",
            (names, FRESH_S),
        )
        return {row["name"]: Place(row["size_bytes"], row["pack"], row["start"] or 0) for row in rows}

    def claim(self, names: Iterable[str]) -> None:
        """To be called before objects are written: no removal that has begun will still be done."""
        for some in _batches(names):
            self._session.execute(
                "UPDATE objects SET going = 2, last_used = extract(epoch FROM clock_timestamp())"
                " WHERE name IN (SELECT name FROM objects WHERE name = ANY(?) AND going = 1"
                " ORDER BY name FOR UPDATE) AND going = 1",
                (some,),
            )

    def add(self, places: Mapping[str, Place]) -> None:
        """Write down objects that were just written."""
        for some in _batches(places):
            self._session.transact(lambda some=some: self._add(some, places))

    def _add(self, names: list[str], places: Mapping[str, Place]) -> None:
        given = [places[name] for name in names]
        self._session.execute(
            "INSERT INTO objects (name, size_bytes, pack, start)"
            " SELECT * FROM unnest(?::text[], ?::bigint[], ?::text[], ?::bigint[])"
            " ON CONFLICT (name) DO UPDATE SET size_bytes = excluded.size_bytes, pack = excluded.pack,"
            " start = excluded.start, going = 0, last_used = extract(epoch FROM clock_timestamp())",
            (
                names,
                [place.size_bytes for place in given],
                [place.pack for place in given],
                [place.start if place.pack is not None else None for place in given],
            ),
        )

    def known(self) -> tuple[float, dict[str, str | None]]:
        """All objects, each with the pack it is in; and the time before that, by the database's clock."""
        since = self._session.now()
        rows = self._session.query("SELECT name, pack FROM objects")
        return since, {row["name"]: row["pack"] for row in rows}

    def forget(self, names: Iterable[str], since: float) -> None:
        """Write down that objects are not there, but for those that somebody has written or used since.

        Args:
            names: The objects.
            since: When it was not yet looked whether they are there.
        """
        for some in _batches(names):
            self._session.execute(
                "DELETE FROM objects WHERE name IN (SELECT name FROM objects WHERE name = ANY(?)"
                " AND going = 0 AND last_used < ? ORDER BY name FOR UPDATE) AND going = 0 AND last_used < ?",
                (some, since, since),
            )

    def unused(self, seconds: float) -> Iterator[tuple[str, str | None]]:
        """Objects that nobody used for so long, by the database's clock, each with the pack it is in."""
        rows = self._session.query(
            "SELECT name, pack FROM objects"
            " WHERE going = 1 OR last_used < extract(epoch FROM clock_timestamp()) - ? ORDER BY name",
            (seconds,),
        )
        return ((row["name"], row["pack"]) for row in rows)

    def begin_removal(self, name: str, unused_s: float) -> bool:
        """Take an object, and what is packed in it, away from whoever comes later: the first of three steps.

        Returns:
            False if somebody used it, or anything in it, meanwhile.
        """
        digest = name.removeprefix(base.pack(""))

        def begin() -> bool:
            rows = self._session.query(
                "SELECT going = 1 OR last_used < extract(epoch FROM clock_timestamp()) - ? AS unused"
                " FROM objects WHERE name = ? OR pack = ? ORDER BY name FOR UPDATE",
                (unused_s, name, digest),
            )
            if not rows or not all(row["unused"] for row in rows):
                return False
            self._session.execute("UPDATE objects SET going = 1 WHERE name = ? OR pack = ?", (name, digest))
            return True

        return self._session.transact(begin)

    def finish_removal(self, name: str, store: base.ObjectStore) -> int | None:
        """Remove an object, then its row, unless somebody writes it anew since `begin_removal`.

        Its row stays locked meanwhile, so that who means to write it anew waits until it is gone.

        Returns:
            Its size; None if it was not removed.
        """

        def remove() -> int | None:
            rows = self._session.query(
                "SELECT going, size_bytes FROM objects WHERE name = ? FOR UPDATE", (name,)
            )
            if not rows or rows[0]["going"] != 1:
                return None
            store.delete([name])
            digest = name.removeprefix(base.pack(""))
            self._session.execute(
                "DELETE FROM objects WHERE name = ? OR (pack = ? AND going = 1)", (name, digest)
            )
            return rows[0]["size_bytes"]

        return self._session.transact(remove)

    def manifests(self) -> set[str]:
        """The digests of the manifests of all runs and uploads whose files were not removed."""
        rows = self._session.query(
            "SELECT outputs::jsonb ->> 'manifest' AS digest FROM runs"
            " WHERE outputs IS NOT NULL AND coalesce(outputs_removed, 0) = 0"
            " UNION SELECT manifest FROM uploads WHERE removed = 0"
        )
        return {row["digest"] for row in rows if row["digest"] is not None}

    # ---- logs and metrics ----------------------------------------------------------------------------------

    def set_streams(self, number: int, streams: Streams) -> None:
        """Write down how much of a run's log and metrics was sent.

        Raises:
            SupersededError: A later supervisor has the run.
        """
        changed = self._session.execute(
            "WITH lease AS (SELECT attempt FROM leases WHERE run = ? FOR SHARE)"
            " INSERT INTO run_streams AS known (run, attempt, log_bytes, metrics_bytes)"
            " SELECT ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM lease WHERE attempt > ?)"
            " ON CONFLICT (run) DO UPDATE SET attempt = excluded.attempt, log_bytes = excluded.log_bytes,"
            " metrics_bytes = excluded.metrics_bytes WHERE known.attempt <= excluded.attempt",
            (
                *(number, number, streams.attempt, streams.log_bytes, streams.metrics_bytes),
                streams.attempt,
            ),
        )
        if not changed:
            raise SupersededError(f"run {number} was taken over: this is attempt {streams.attempt}")

    def restore_streams(self, number: int, streams: Streams) -> None:
        """Write down what was found of a run's log and metrics, whoever has it now; of no older attempt."""
        self._session.execute(
            "INSERT INTO run_streams AS known (run, attempt, log_bytes, metrics_bytes) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (run) DO UPDATE SET attempt = excluded.attempt, log_bytes = excluded.log_bytes,"
            " metrics_bytes = excluded.metrics_bytes WHERE known.attempt <= excluded.attempt",
            (number, streams.attempt, streams.log_bytes, streams.metrics_bytes),
        )

    def streams(self, number: int) -> Streams | None:
        """How much of a run's log and metrics was sent; None for nothing."""
        rows = self._session.query(
            "SELECT attempt, log_bytes, metrics_bytes FROM run_streams WHERE run = ?", (number,)
        )
        return Streams(**rows[0]) if rows else None

    def expect_heartbeat(self, number: int, attempt: int) -> None:
        """Let an active run whose lease was lost be closed, unless its supervisor is heard of in time."""
        self._session.execute(
            "INSERT INTO leases (run, attempt, heartbeat_at)"
            " VALUES (?, ?, extract(epoch FROM clock_timestamp())) ON CONFLICT DO NOTHING",
            (number, attempt),
        )

    # ---- uploads -------------------------------------------------------------------------------------------

    def uploads(self, name: str | None = None) -> list[UploadRow]:
        """The versions of an upload, or of all, removed ones too, oldest first; only sound rows."""
        return self._upload_rows("?::text IS NULL OR name = ? ORDER BY name, version", (name, name))

    def _upload_rows(self, condition: str, values: Iterable[Any]) -> list[UploadRow]:
        statement = f"SELECT {_UPLOAD_COLUMNS} FROM uploads WHERE {condition}"  # noqa: S608 - both stand here
        rows = self._session.query(statement, values)
        found = [UploadRow(**{**row, "removed": bool(row["removed"])}) for row in rows]
        return [row for row in found if row.is_sound()]

    def add_upload(self, row: UploadRow) -> bool:
        """Write down a version whose files are in the store; False if that number is another's."""
        return bool(
            self._session.execute(
                "INSERT INTO uploads"
                " (name, version, kind, files, size_bytes, created_at, source, manifest, removed)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    *(row.name, row.version, row.kind, row.files, row.size_bytes, row.created_at),
                    *(row.source, row.manifest, int(row.removed)),
                ),
            )
        )

    def remove_upload(self, name: str, version: int) -> None:
        """Write down that a version is gone; its number is not given again."""
        self._session.execute(
            "UPDATE uploads SET removed = 1, exported = 0 WHERE name = ? AND version = ?", (name, version)
        )

    def unexported_uploads(self, limit: int) -> list[UploadRow]:
        """Versions whose record in the store is older than their row."""
        return self._upload_rows("exported = 0 ORDER BY name, version LIMIT ?", (limit,))

    def note_upload_exported(self, row: UploadRow) -> None:
        """Write down that the record of a version is in the store as its row was, or is gone as that said.

        If it was removed meanwhile, it is done once more.
        """
        self._session.execute(
            "UPDATE uploads SET exported = CASE WHEN removed = ? THEN 1 ELSE 0 END"
            " WHERE name = ? AND version = ?",
            (int(row.removed), row.name, row.version),
        )

    # ---- records -------------------------------------------------------------------------------------------

    def unexported(self, limit: int = 100) -> list[tuple[int, int]]:
        """Runs whose record in the store is older than their row, each with a version; 0 for the links."""
        rows = self._session.query("SELECT run, version FROM unexported ORDER BY run LIMIT ?", (limit,))
        return [(row["run"], row["version"]) for row in rows]

    def note_exported(self, number: int, version: int) -> None:
        """Write down that a record was put into the store as its row was at that version, or later.

        If somebody else did so meanwhile, that may have been the newer one: it is done once more, then.
        """
        if not self._session.execute(
            "DELETE FROM unexported WHERE run = ? AND version = ?", (number, version)
        ):
            self._session.query("SELECT note_unexported(?)", (number,))


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(set(names))
    return (ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH))
