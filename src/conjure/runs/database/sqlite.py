"""The database behind one small interface; with `rows`, the only module that knows SQL.

Main entry: `Store.open`. Invariant: state changes only inside transactions that check the move is legal, and
whoever uses the store never sees "database is locked".

Beside each run's row lies ``runs/<number>/run.json``, rewritten here whenever the record changes for good, in
the same transaction and before its end, so that `Store.reindex` can rebuild every row from the folders alone.
"""

import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from conjure.core.dir_fd import Folder
from conjure.core.files import parse_json, write_atomically
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.text import to_iso, valid_utf8
from conjure.errors import ConflictError, ConjureError, NotFoundError, StoreError
from conjure.runs.database.connection import connect, reading_rows, retry_when_busy, translate_errors
from conjure.runs.database.migrations import migrate
from conjure.runs.database.rows import (
    CLAIM,
    FACTS,
    IN_QUEUE,
    LABELS,
    LAST,
    LISTED,
    Claim,
    ListedRun,
    RunFilter,
    bindable,
    is_as_written,
    selection,
    to_claim,
    to_columns,
    to_listed,
    to_record,
)
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
    facts_from_dict,
    from_iso,
)
from conjure.runs.schema.run_folder import RECORD_FILE, RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import (
    Ending,
    EndReason,
    Facts,
    RunStatus,
    check_move,
)
from conjure.runs.telemetry.metrics import Summary, read_points, summarise

_LINKS_FORMAT = 1
_BATCH = 100
# Numbers are given one by one, so a larger one is no run's; it would be the end of all numbers after it.
_RUN_FOLDER = re.compile(r"[1-9][0-9]{0,8}")

STOP, KILL = "stop", "kill"

_HasFacts = TypeVar("_HasFacts", RunRecord, ListedRun)


@dataclass(frozen=True, slots=True)
class RunRelation:
    """Which run a run repeats, and which one started it."""

    number: int
    rerun_of: int | None
    parent: int | None


@dataclass(frozen=True, slots=True)
class RunSize:
    """A run as a list of files shows it.

    Attributes:
        number: The run.
        was_saved: Whether its outputs were saved, and not removed since.
        size_bytes: How much its outputs hold, or None.
        changed_at: When it ended, else when it was asked for.
    """

    number: int
    was_saved: bool
    size_bytes: int | None
    changed_at: float | None


@dataclass(frozen=True, slots=True)
class KeptParts:
    """Which parts the folder of a run that has ended must have: a log, and outputs with their manifest."""

    number: int
    log: bool
    outputs: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A name for a resource."""

    name: str
    resource: str
    created_at: str


class Store:
    """Runs, labels, links and the metric index of one home.

    Open one per thread; it is a context manager.
    """

    def __init__(self, home: Home, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.home = home
        self._connection = connection
        self._clock = clock
        self._presumed: dict[int, tuple[Ending, float]] = {}

    @classmethod
    def open(cls, home: Home, *, clock: Callable[[], float] = time.time, must_exist: bool = False) -> "Store":
        """The store of a home, made or brought up to date if need be.

        A database that is missing beside existing run folders is rebuilt from them.

        Args:
            home: Where conjure keeps things.
            clock: Seconds since the epoch.
            must_exist: Make nothing: for who comes back to a home that may have been removed meanwhile.

        Raises:
            StoreError: The home cannot be used, the file is damaged, or a newer conjure wrote it.
        """
        if not must_exist:
            home.create()
        with translate_errors(home):
            store = cls(home, connect(home.database, must_exist=must_exist), clock)
            if retry_when_busy(lambda: migrate(store._connection)) and home.runs.is_dir():
                store.reindex()
            return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_connection()

    def close_connection(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def forbid_writing(self) -> None:
        """Refuse every change from now on: for who only looks."""
        self._connection.execute("PRAGMA query_only = ON")

    # ---- a run's life --------------------------------------------------------------------------------------

    def create_run(
        self,
        spec: RunSpec,
        owner: Owner,
        reserve: Callable[[int], None],
        *,
        parent: int | None = None,
        rerun_of: int | None = None,
    ) -> RunRecord:
        """Give a run its number.

        Args:
            spec: What is asked; only its stored form, without secrets, is written down.
            owner: The process that supervises it for now.
            reserve: Called with the number inside the transaction; it takes possession of the run's folder,
                and raises FileExistsError where that number was given before (by a database since lost).
            parent: The run that starts this one.
            rerun_of: The run this one repeats.
        """
        with self._transaction():
            number = self._reserve_number(reserve)
            record = RunRecord(
                number,
                spec.stored(),
                Facts({RunStatus.REQUESTED: round(self._clock(), 6)}),
                owner=owner,
                parent=parent,
                rerun_of=rerun_of,
            )
            self._insert(record)
            self._write_record(record)
        return record

    def move(self, number: int, status: RunStatus) -> None:
        """Enter the next phase.

        Raises:
            IllegalMoveError: The run cannot go there from where it is.
        """
        with self._transaction():
            self._move(number, status)

    def admit(
        self, number: int, decide: Callable[[list[Claim]], tuple[int, ...] | None], owner: Owner
    ) -> bool:
        """Let a queued run go on to building if `decide` finds room for it among the active runs.

        Args:
            number: The queued run.
            decide: Given what all active runs claim, the GPUs this one gets (an empty tuple for none), or
                None to wait.
            owner: The process that then supervises it.

        Returns:
            Whether it was let in.

        Raises:
            IllegalMoveError: It is not queued any more.
        """
        with self._transaction():
            check_move(self._status(number), RunStatus.BUILDING)
            gpu_ids = decide(self.claims())
            if gpu_ids is None:
                return False
            self._move(number, RunStatus.BUILDING)
            self._set(number, gpu_ids=json.dumps(gpu_ids), owner=json.dumps(asdict(owner)))
            return True

    def enqueue(self, number: int, queue: Owner) -> None:
        """Leave a run without a supervisor in a machine's queue.

        Raises:
            IllegalMoveError: It is past that already.
        """
        with self._transaction():
            if self._status(number) is not RunStatus.QUEUED:
                self._move(number, RunStatus.QUEUED)
            self._set(number, owner=json.dumps(asdict(queue)))

    def close_queued(self, number: int, ending: Ending, *, total_s: float | None = None) -> bool:
        """Close a run if it still waits in a queue, where no process would do that.

        Returns:
            Whether it did.
        """
        with self._transaction():
            if not self._value(f"SELECT count(*) FROM runs WHERE number = ? AND {IN_QUEUE}", (number,)):
                return False
            self._close(number, ending, None, total_s)
            return True

    def close(
        self, number: int, ending: Ending, *, command_s: float | None = None, total_s: float | None = None
    ) -> RunRecord:
        """Close the record for good.

        Raises:
            IllegalMoveError: The run cannot end so from where it is; it was closed already, for one.
        """
        with self._transaction():
            return self._close(number, ending, command_s, total_s)

    def presume_ended(self, number: int, ending: Ending) -> None:
        """Tell of a run as ended though that cannot be written now; only this store says so, until it can."""
        self._presumed[number] = (ending, self._clock())

    def request_end(self, number: int, what: str) -> bool:
        """Ask the owner of an active run to `STOP` or `KILL` it; a kill outranks a stop.

        Returns:
            False if the run has ended already.
        """
        with self._transaction():
            record = self.get(number)
            if record.status.is_final:
                return False
            if record.end_request != KILL:
                self._set(number, end_request=what)
            return True

    def end_request(self, number: int) -> str | None:
        """`STOP` or `KILL` if somebody asked for it, else None."""
        rows = self._query("SELECT end_request FROM runs WHERE number = ?", (number,))
        return rows[0]["end_request"] if rows else None

    def set_facts(
        self,
        number: int,
        *,
        owner: Owner | None = None,
        code: CodeFacts | None = None,
        environment: EnvironmentFacts | None = None,
        mounts: tuple[MountFacts, ...] | None = None,
        outputs: OutputFacts | None = None,
        usage: Usage | None = None,
        identity: str | None = None,
    ) -> None:
        """Write down what became known of a run; None leaves what is there."""
        given = {"owner": owner, "code": code, "environment": environment, "outputs": outputs, "usage": usage}
        columns: dict[str, Any] = {
            name: json.dumps(asdict(fact)) for name, fact in given.items() if fact is not None
        }
        if identity is not None:
            columns["identity"] = identity
        with self._transaction():
            if mounts is not None:
                columns["mounts"] = json.dumps([asdict(mount) for mount in mounts])
                self._set_sources(number, mounts)
            self._set(number, **columns)
            if self._status(number).is_final:
                self._rewrite(number)

    # ---- looking -------------------------------------------------------------------------------------------

    def get(self, number: int) -> RunRecord:
        """One run.

        Raises:
            NotFoundError: There is none of that number; the message names the newest.
        """
        rows = self._rows("WHERE number = ?", (number,))
        if not rows:
            raise self._no_such_run(number)
        return rows[0]

    def _no_such_run(self, number: int) -> NotFoundError:
        newest = self.newest_number()
        if newest is None:
            return NotFoundError(
                f"there is no run {number}; there are no runs yet", fix='conjure run "echo hello"'
            )
        return NotFoundError(f"there is no run {number}; the newest is {newest}", fix="conjure ps")

    def facts(self, number: int) -> Facts:
        """How far a run has come: less to read than all of it, for who looks often."""
        rows = self._query(f"SELECT {FACTS} FROM runs WHERE number = ?", (number,))
        if not rows:
            raise self._no_such_run(number)
        with reading_rows():
            return self._as_presumed(number, facts_from_dict(dict(rows[0])))

    def select(self, wanted: RunFilter | None = None) -> list[RunRecord]:
        """The runs that a filter lets through."""
        wanted = wanted if wanted is not None else RunFilter()
        return self._by_status(wanted, lambda wider: self._rows(*selection(wider)))

    def listing(self, wanted: RunFilter) -> list[ListedRun]:
        """The runs that a filter lets through, with what a list shows of them."""
        return self._by_status(wanted, self._listing)

    def count(self, wanted: RunFilter) -> int:
        """How many runs a filter lets through, its limit aside."""
        rest, values = selection(replace(wanted, limit=None, offset=0))
        return self._query(f"SELECT count(*) FROM runs {rest}", values)[0][0]

    def sizes(self) -> list[RunSize]:
        """Every run, the newest first, with how much its outputs hold: little to read, for long lists."""
        rows = self._query(
            "SELECT number, json_extract(outputs, '$.removed') = 0, json_extract(outputs, '$.size_bytes'),"
            " coalesce(ended_at, requested_at) FROM runs ORDER BY number DESC"
        )
        with reading_rows():
            return [RunSize(number, bool(saved), size, from_iso(at)) for number, saved, size, at in rows]

    def environments_in_use(self, *, active_only: bool) -> set[str]:
        """Digests of the environments of runs whose files were not removed; or of the active ones alone."""
        rows = self._query(
            "SELECT DISTINCT json_extract(environment, '$.digest') AS digest FROM runs"
            " WHERE environment IS NOT NULL AND coalesce(json_extract(outputs, '$.removed'), 0) = 0"
            + (" AND end_reason IS NULL" if active_only else "")
        )
        return {row["digest"] for row in rows}

    def code_trees(self) -> dict[int, str]:
        """The tree of each run whose code is kept."""
        rows = self._query(
            "SELECT number, json_extract(code, '$.tree') AS tree FROM runs"
            " WHERE tree != '' AND coalesce(json_extract(outputs, '$.removed'), 0) = 0"
        )
        return {row["number"]: row["tree"] for row in rows}

    def active(self) -> list[RunRecord]:
        """Runs that have not ended, oldest first."""
        rows = self._rows("WHERE end_reason IS NULL ORDER BY number")
        return [record for record in rows if not record.status.is_final]

    def supervised(self) -> list[RunRecord]:
        """Active runs that have a supervisor, or should; oldest first."""
        rows = self._rows(f"WHERE end_reason IS NULL AND NOT ({IN_QUEUE}) ORDER BY number")
        return [record for record in rows if not record.status.is_final]

    def claims(self) -> list[Claim]:
        """What the active runs ask for and have, oldest first."""
        rows = self._query(f"SELECT {CLAIM} FROM runs WHERE end_reason IS NULL ORDER BY number")
        with reading_rows():
            return [claim for claim in map(to_claim, rows) if claim.number not in self._presumed]

    def queued(self, queue: Owner) -> dict[int, bool]:
        """The runs in a machine's queue, each with whether it was put there since the machine was started."""
        rows = self._query(
            f"SELECT number, json_extract(owner, '$.boot_id') = ? FROM runs"
            f" WHERE {IN_QUEUE} AND json_extract(owner, '$.host_id') = ? ORDER BY number",
            (queue.boot_id, queue.host_id),
        )
        return {number: bool(same_boot) for number, same_boot in rows if number not in self._presumed}

    def active_numbers(self) -> set[int]:
        """The numbers of the runs that have not ended."""
        return {row["number"] for row in self._query("SELECT number FROM runs WHERE end_reason IS NULL")}

    def numbers(self) -> set[int]:
        """The numbers of all runs there are rows of."""
        return {row["number"] for row in self._query("SELECT number FROM runs")}

    def newest_number(self) -> int | None:
        """The highest number given, or None before the first run."""
        return self._value("SELECT max(number) FROM runs")

    def users_of(self, number: int) -> list[int]:
        """Runs that mount something of this run, oldest first."""
        rows = self._query(
            "SELECT DISTINCT run FROM run_sources WHERE source_run = ? ORDER BY run", (number,)
        )
        return [row["run"] for row in rows]

    def kinships(self) -> list[RunRelation]:
        """The runs that repeat another, or were started by one; oldest first."""
        rows = self._query(
            "SELECT number, rerun_of, parent FROM runs"
            " WHERE rerun_of IS NOT NULL OR parent IS NOT NULL ORDER BY number"
        )
        return [RunRelation(**row) for row in rows]

    def sources_in_use(self) -> dict[str, list[int]]:
        """Every resource that some run mounts, with the numbers of those runs."""
        found: dict[str, list[int]] = {}
        for row in self._query("SELECT source, run FROM run_sources ORDER BY run"):
            found.setdefault(row["source"], []).append(row["run"])
        return found

    def completed_equal(self, identity: str) -> RunRecord | None:
        """The newest completed run with this identity whose outputs are still there, or None."""
        rows = self._rows(
            "WHERE identity = ? AND end_reason = ? AND archived_at IS NULL ORDER BY number DESC",
            (identity, EndReason.COMPLETED),
        )
        return next((row for row in rows if row.outputs is None or not row.outputs.removed), None)

    # ---- labels, archive, links ----------------------------------------------------------------------------

    def add_label(self, number: int, label: str) -> None:
        """Give a run a label; it may have it already."""
        self.get(number)
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO run_labels VALUES (?, ?)", (number, label))
            self._rewrite(number)

    def remove_label(self, number: int, label: str) -> None:
        """Take a label off a run.

        Raises:
            NotFoundError: The run does not have it.
        """
        labels = self.get(number).labels
        if label not in labels:
            known = f"its labels are {', '.join(labels)}" if labels else "it has none"
            raise NotFoundError(f"run {number} has no label {label!r}; {known}")
        with self._transaction():
            self._connection.execute("DELETE FROM run_labels WHERE run = ? AND label = ?", (number, label))
            self._rewrite(number)

    def set_archived(self, number: int, *, archived: bool) -> None:
        """Put a run away, or take it out again."""
        self.get(number)
        with self._transaction():
            self._set(number, archived_at=self._now() if archived else None)
            self._rewrite(number)

    def set_link(self, name: str, resource: str) -> None:
        """Give a resource a name.

        Raises:
            ConflictError: The name is taken.
        """
        taken = self.link(name)
        if taken is not None:
            raise ConflictError(
                f"link {name!r} already exists and points to {taken.resource}",
                fix=shell_words("conjure", "unlink", name),
            )
        with self._transaction():
            self._connection.execute("INSERT INTO links VALUES (?, ?, ?)", (name, resource, self._now()))
            self._write_links()

    def remove_link(self, name: str) -> None:
        """Take a name away.

        Raises:
            NotFoundError: There is no such link.
        """
        if self.link(name) is None:
            raise NotFoundError(f"there is no link {name!r}", fix="conjure link")
        with self._transaction():
            self._connection.execute("DELETE FROM links WHERE name = ?", (name,))
            self._write_links()

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        rows = self._query("SELECT * FROM links WHERE name = ?", (name,))
        return Link(**rows[0]) if rows else None

    def links(self) -> list[Link]:
        """All links, by name."""
        return [Link(**row) for row in self._query("SELECT * FROM links ORDER BY name")]

    def lookup_link(self, name: str) -> str | None:
        """The resource a name stands for, or None: what `resources.resolve` asks.

        Raises:
            NotFoundError: It is ``last`` or ``last~N``, and there are not so many runs.
        """
        last = LAST.fullmatch(name)
        if last is not None:
            return f"runs/{self.last_number(int(last['back'] or 0))}"
        link = self.link(name)
        return None if link is None else link.resource

    def last_number(self, back: int = 0) -> int:
        """The number of the newest run, or of the one so many before it.

        Raises:
            NotFoundError: There are not so many runs.
        """
        number = self._value("SELECT number FROM runs ORDER BY number DESC LIMIT 1 OFFSET ?", (back,))
        if number is None:
            count = self._value("SELECT count(*) FROM runs")
            have = f"there are only {count}" if count else "there are no runs yet"
            raise NotFoundError(f"there is no run last{f'~{back}' if back else ''}; {have}", fix="conjure ps")
        return number

    # ---- the metric index ----------------------------------------------------------------------------------

    def set_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        """Write down how a run's metrics stand."""
        with self._transaction():
            self._set_summaries(number, summaries)

    def refresh_summaries(self, number: int) -> None:
        """Make the index of a run's metrics say what their file says."""
        self.set_summaries(number, self._summarised(number))

    def summaries(self, number: int) -> dict[str, Summary]:
        """How a run's metrics stand, by name."""
        rows = self._query(
            "SELECT name, points, last_step, last_value, lowest, highest"
            " FROM metrics WHERE run = ? ORDER BY name",
            (number,),
        )
        return {row["name"]: Summary(**row) for row in rows}

    def latest_values(self, numbers: Iterable[int]) -> dict[int, dict[str, float]]:
        """The newest value of every metric of some runs: run -> name -> value."""
        wanted = json.dumps(list(numbers))
        found: dict[int, dict[str, float]] = {}
        for row in self._query(
            "SELECT run, name, last_value FROM metrics WHERE run IN (SELECT value FROM json_each(?))"
            " ORDER BY run, name",
            (wanted,),
        ):
            found.setdefault(row["run"], {})[row["name"]] = row["last_value"]
        return found

    def metric_names(self) -> list[str]:
        """The names of all metrics that any run has, in order."""
        return [row["name"] for row in self._query("SELECT DISTINCT name FROM metrics ORDER BY name")]

    # ---- rebuilding ----------------------------------------------------------------------------------------

    def put_record(self, record: RunRecord) -> None:
        """Make the database say what a record says, whatever it said before."""
        summaries = self._summarised(record.number)
        with self._transaction():
            self._put(record, summaries)

    def reindex(self) -> tuple[list[int], list[int]]:
        """Rebuild the rows of all runs from their folders, but of those that still go on; the links too.

        A row that cannot be read is made anew, or goes where there is no record to make it from.

        Returns:
            Numbers that were rebuilt, and numbers whose folder holds no readable record. Neither will be
            given again.
        """
        rebuilt: list[int] = []
        unreadable: list[int] = []
        numbers = folder_numbers(self.home.runs)
        for start in range(0, len(numbers), _BATCH):
            with self._transaction():  # in batches, so that others get their turn
                for number in numbers[start : start + _BATCH]:
                    self._rebuild(number, rebuilt, unreadable)
        with self._transaction():
            self._drop_unreadable_rows(rebuilt)
            self._skip_numbers(max([0, *rebuilt, *unreadable]))
            self._rebuild_links()
        return rebuilt, unreadable

    def _rebuild(self, number: int, rebuilt: list[int], unreadable: list[int]) -> None:
        if self._is_as_written(number):
            self._set_summaries(number, self._summarised(number))
            rebuilt.append(number)
            return
        record = read_record(self.home.run_folder(number))
        if record is None or record.number != number:
            # Where the file alone is lost or damaged, the database knows what it said.
            known = [] if record is not None else self._readable_rows(number)
            for row in known:
                self._write_record(row)
            (rebuilt if known else unreadable).append(number)
        # The file of a run that goes on tells how it began; the row knows how far it is.
        elif not self._goes_on(number):
            self._put(record, self._summarised(number))
            rebuilt.append(number)

    def _goes_on(self, number: int) -> bool:
        return any(not record.status.is_final for record in self._readable_rows(number))

    def _drop_unreadable_rows(self, rebuilt: Iterable[int]) -> None:
        for number in self.damaged_rows(sorted(self.numbers() - set(rebuilt))):
            self._connection.execute("DELETE FROM runs WHERE number = ?", (number,))

    def damaged_rows(self, suspects: Iterable[int]) -> list[int]:
        """Those of the runs whose rows cannot be read."""
        return [number for number in suspects if not self._readable_rows(number)]

    def suspects(self) -> list[int]:
        """Runs whose row does not say, word for word, what their file says: one of them may be damaged."""
        return [number for number in sorted(self.numbers()) if not self._is_as_written(number)]

    def _is_as_written(self, number: int) -> bool:
        try:
            rows = self._query(f"SELECT runs.*, {LABELS} FROM runs WHERE number = ?", (number,))
            path = (
                f"{self.home.runs}/{number}/{RECORD_FILE}"  # there are many: pathlib would take half the time
            )
            with open(path, "rb") as file:  # noqa: PTH123
                return bool(rows) and is_as_written(rows[0], parse_json(file.read()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError):
            return False

    def holds(self, record: RunRecord) -> bool:
        """Whether the database says of a run what a record says."""
        return self._readable_rows(record.number) == [record]

    def kept_parts(self) -> list[KeptParts]:
        """What must be in the folders of the runs that have ended."""
        rows = self._query(
            "SELECT number, queued_at IS NOT NULL,"
            " outputs IS NOT NULL AND json_extract(outputs, '$.removed') = 0"
            " FROM runs WHERE end_reason IS NOT NULL ORDER BY number"
        )
        return [KeptParts(number, bool(log), bool(outputs)) for number, log, outputs in rows]

    def _readable_rows(self, number: int) -> list[RunRecord]:
        try:
            return self._rows("WHERE number = ?", (number,))
        except StoreError:
            return []

    def _rebuild_links(self) -> None:
        """The file is as new as the database; a home from before there was such a file gets one now."""
        known = read_links(self.home)
        if known is None:
            if self.links():
                self._write_links()
            return
        self._connection.execute("DELETE FROM links")
        rows = [(link.name, link.resource, link.created_at) for link in known]
        self._connection.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?)", rows)

    @contextmanager
    def while_no_number_is_given(self) -> Iterator[None]:
        """Keep other processes from giving numbers, and from every other change, while the block lasts."""
        with self._transaction():
            yield

    def stray_rows(self) -> list[str]:
        """Rows that belong to runs that are not there, one phrase per table; there should be none."""
        tables = Counter(row[0] for row in self._query("PRAGMA foreign_key_check"))
        return [f"{table} has rows of runs that are not there: {count}" for table, count in tables.items()]

    # ---- inside --------------------------------------------------------------------------------------------

    def _now(self) -> str:
        """This moment, as the database writes it."""
        return str(to_iso(self._clock()))

    def _reserve_number(self, reserve: Callable[[int], None]) -> int:
        while True:
            given = self._value("SELECT seq FROM sqlite_sequence WHERE name = 'runs'") or 0
            try:
                reserve(given + 1)
            except FileExistsError:
                self._skip_numbers(max([given + 1, *folder_numbers(self.home.runs)]))
            else:
                return given + 1

    def _skip_numbers(self, up_to: int) -> None:
        given = self._value("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        if given is None:
            self._connection.execute("INSERT INTO sqlite_sequence VALUES ('runs', ?)", (up_to,))
        elif given < up_to:
            self._connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'runs'", (up_to,))

    def _close(
        self, number: int, ending: Ending, command_s: float | None, total_s: float | None
    ) -> RunRecord:
        check_move(self._status(number), ending.reason.status)
        self._set(
            number,
            end_reason=ending.reason,
            exit_code=ending.exit_code,
            signal=ending.signal,
            message=ending.message,
            ended_at=self._now(),
            command_s=command_s,
            total_s=total_s,
        )
        return self._rewrite(number)

    def _status(self, number: int) -> RunStatus:
        return self.get(number).status

    def _move(self, number: int, status: RunStatus) -> None:
        check_move(self._status(number), status)
        self._set(number, **{f"{status}_at": self._now()})

    def _set(self, number: int, **columns: Any) -> None:
        if columns:
            assignments = ", ".join(f"{name} = :{name}" for name in columns)
            self._connection.execute(
                f"UPDATE runs SET {assignments} WHERE number = :number",
                bindable(columns | {"number": number}),
            )

    def _insert(self, record: RunRecord) -> None:
        columns = to_columns(record)
        marks = ", ".join(f":{name}" for name in columns)
        self._connection.execute(f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", columns)
        labels = [(record.number, label) for label in dict.fromkeys(record.labels)]
        self._connection.executemany("INSERT INTO run_labels VALUES (?, ?)", labels)
        self._set_sources(record.number, record.mounts)

    def _set_sources(self, number: int, mounts: Iterable[MountFacts]) -> None:
        rows = {mount.source: (number, valid_utf8(mount.source), mount.source_run) for mount in mounts}
        self._connection.executemany("INSERT OR REPLACE INTO run_sources VALUES (?, ?, ?)", rows.values())

    def _summarised(self, number: int) -> list[Summary]:
        return list(summarise(read_points(self.home.run_folder(number))).values())

    def _put(self, record: RunRecord, summaries: Iterable[Summary]) -> None:
        self._connection.execute("DELETE FROM runs WHERE number = ?", (record.number,))
        self._insert(record)
        self._set_summaries(record.number, summaries)

    def _set_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO metrics VALUES"
            " (:run, :name, :points, :last_step, :last_value, :lowest, :highest)",
            [{"run": number, **summary.to_dict()} for summary in summaries],
        )

    def _rows(self, rest: str, values: Iterable[Any] = ()) -> list[RunRecord]:
        rows = self._query(f"SELECT runs.*, {LABELS} FROM runs {rest}", values)
        with reading_rows():
            records = list(map(to_record, rows))
        if not self._presumed:
            return records
        return [replace(one, facts=self._as_presumed(one.number, one.facts)) for one in records]

    def _listing(self, wanted: RunFilter) -> list[ListedRun]:
        rest, values = selection(wanted)
        rows = self._query(f"SELECT {LISTED} FROM runs {rest}", values)
        with reading_rows():
            listed = list(map(to_listed, rows))
        if not self._presumed:
            return listed
        return [replace(one, facts=self._as_presumed(one.number, one.facts)) for one in listed]

    def _as_presumed(self, number: int, facts: Facts) -> Facts:
        if number not in self._presumed or facts.ending is not None:
            return facts
        ending, seen_at = self._presumed[number]
        return replace(facts, ending=ending, ended_at=seen_at)

    def _by_status(self, wanted: RunFilter, find: Callable[[RunFilter], list[_HasFacts]]) -> list[_HasFacts]:
        """What `find` finds; where a status is presumed, the database cannot choose by it."""
        if not self._presumed or not wanted.statuses:
            return find(wanted)
        found = find(replace(wanted, statuses=(), limit=None))
        return [one for one in found if one.facts.status in wanted.statuses][: wanted.limit]

    def _query(self, statement: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with translate_errors(self.home):
            return retry_when_busy(lambda: self._connection.execute(statement, tuple(values)).fetchall())

    def _value(self, statement: str, values: Iterable[Any] = ()) -> Any:
        rows = self._query(statement, values)
        return rows[0][0] if rows else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translate_errors(self.home):
            retry_when_busy(lambda: self._connection.execute("BEGIN IMMEDIATE"))
            try:
                yield
                retry_when_busy(lambda: self._connection.execute("COMMIT"))
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rewrite(self, number: int) -> RunRecord:
        """Bring the record's file up to date before the database says so: the file never lags behind."""
        record = self.get(number)
        self._write_record(record)
        return record

    def _write_record(self, record: RunRecord) -> None:
        text = json.dumps(record.to_dict(), indent=1) + "\n"
        with translate_errors(self.home):
            try:
                folder = Folder.open(self.home.run_folder(record.number))
            except (NotADirectoryError, FileNotFoundError):
                # Somebody removed it by hand, or a link took its place; the database alone has it all.
                return
            with folder:
                write_atomically(folder.here / RECORD_FILE, text, mode=0o600)

    def _write_links(self) -> None:
        """Let a file say what the links are, before the database does: so they outlive it."""
        content = {"format": _LINKS_FORMAT, "links": [asdict(link) for link in self.links()]}
        with translate_errors(self.home):
            write_atomically(self.home.links_file, json.dumps(content, indent=1) + "\n", mode=0o600)


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder, or None if there is none that can be read."""
    try:
        return RunRecord.from_dict(parse_json(RunFolder(folder).record.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, ConjureError):
        return None


def read_links(home: Home) -> list[Link] | None:
    """The links in their file, or None if there is none that can be read."""
    try:
        stored = parse_json(home.links_file.read_bytes())["links"]
        return [Link(*(str(link[name]) for name in ("name", "resource", "created_at"))) for link in stored]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folder_numbers(runs: Path) -> list[int]:
    """The numbers that have a folder, in order; a folder of another name is no run's."""
    return sorted(
        int(entry.name)
        for entry in _entries(runs)
        if _RUN_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    )


def foreign_entries(runs: Path) -> list[str]:
    """Names of what lies among the run folders and is none, in order."""
    return sorted(
        entry.name
        for entry in _entries(runs)
        if not _RUN_FOLDER.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False)
    )


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
