"""What conjure's statements share, whatever they are about.

Main entry: `Statements`, the base of `sweep_statements`, `run_statements`, `label_statements`,
`metric_statements` and `maintenance_statements`; with these, `rows`, the sessions and the migrations it is
all the SQL there is. Invariant: a run changes only in a transaction that has it to itself, and only by
whoever may still write of it.

Beside each run's row lies ``runs/<number>/run.json``, rewritten here whenever the record changes for good, in
the same transaction and before its end, so that `reindex` can rebuild every row from the folders alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self, TypeVar

from conjure.core.text import to_iso, valid_utf8
from conjure.errors import ConjureError, NotFoundError, StoreError
from conjure.runs.database.base import ListedRun, SupersededError
from conjure.runs.database.record_files import write_record
from conjure.runs.database.rows import FACTS, RECORD, sql_placeholders, to_columns, to_record
from conjure.runs.database.session import Row, Session
from conjure.runs.schema.record import MountFacts, RunRecord, facts_from_dict
from conjure.runs.schema.status import Ending, RunProgress

_Result = TypeVar("_Result")
_HasFacts = TypeVar("_HasFacts", RunRecord, ListedRun)


class Statements:
    """A session, and what is done with a run in it.

    Attributes:
        home: Where the files of its runs are.
        was_upgraded: Whether opening it changed its schema.
        is_shared: Whether other machines use it too, and it has a clock of its own.
    """

    was_upgraded = False
    is_shared = False

    def __init__(self, session: Session) -> None:
        self.home = session.home
        self._session = session
        self._presumed: dict[int, tuple[Ending, float]] = {}
        self._fence: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def reconnect(self) -> None:
        """Read and write through a new connection."""
        self._session.reconnect()

    # ---- changing ------------------------------------------------------------------------------------------

    def _change(self, number: int, act: Callable[[], _Result]) -> _Result:
        """Change a run in one transaction; whoever lost the run to another supervisor changes nothing."""

        def change() -> _Result:
            self._session.lock_run(number)
            self._check_fence(number)
            return act()

        return self._session.transact(change)

    def _check_fence(self, number: int) -> None:
        if self._fence is None or self._fence[0] != number:
            return
        newest = self._value("SELECT attempt FROM leases WHERE run = ?", (number,))
        if newest is not None and newest > self._fence[1]:
            attempt = self._fence[1]
            raise SupersededError(f"run {number} was taken over: this is attempt {attempt} of {newest}")

    def _now(self) -> str:
        """This moment, as the database writes it."""
        return str(to_iso(self._session.now()))

    def _set(self, number: int, columns: Mapping[str, Any]) -> None:
        if columns:
            columns = self._session.with_extracts(columns)
            assignments = ", ".join(f"{name} = ?" for name in columns)
            self._session.execute(
                f"UPDATE runs SET {assignments} WHERE number = ?", (*columns.values(), number)
            )

    def _insert(self, record: RunRecord) -> None:
        columns = self._session.with_extracts(to_columns(record))
        self._session.execute(
            f"INSERT INTO runs ({', '.join(columns)}) VALUES ({sql_placeholders(columns)})", columns.values()
        )
        self._insert_parts(record)

    def _insert_parts(self, record: RunRecord) -> None:
        """What stands of a record in tables beside the one of runs."""
        for label in record.labels:
            self._insert_label(record.number, label)
        self._set_sources(record.number, record.mounts)

    def _insert_label(self, number: int, label: str) -> None:
        self._session.execute(
            "INSERT INTO run_labels (run, label) VALUES (?, ?) ON CONFLICT DO NOTHING", (number, label)
        )

    def _set_sources(self, number: int, mounts: Iterable[MountFacts]) -> None:
        for mount in mounts:
            self._session.execute(
                "INSERT INTO run_sources (run, source, source_run) VALUES (?, ?, ?)"
                " ON CONFLICT (run, source) DO UPDATE SET source_run = excluded.source_run",
                (number, valid_utf8(mount.source), mount.source_run),
            )

    def _rewrite(self, number: int) -> RunRecord:
        """Bring the record's file up to date before the database says so: the file never lags behind."""
        record = self.get(number)
        self._write_record(record)
        return record

    def _write_record(self, record: RunRecord) -> None:
        with self._session.errors_translated():
            write_record(self.home, record)

    # ---- looking -------------------------------------------------------------------------------------------

    def get(self, number: int) -> RunRecord:
        """One run."""
        rows = self._rows("WHERE number = ?", (number,))
        if not rows:
            raise self._no_such_run(number)
        return rows[0]

    def facts(self, number: int) -> RunProgress:
        """How far a run has come."""
        rows = self._session.query(f"SELECT {FACTS} FROM runs WHERE number = ?", (number,))
        if not rows:
            raise self._no_such_run(number)
        with reading_rows():
            return self._as_presumed(number, facts_from_dict(dict(rows[0])))

    def newest_number(self) -> int | None:
        """The highest number given, or None before the first run."""
        return self._value("SELECT max(number) FROM runs")

    def _no_such_run(self, number: int) -> NotFoundError:
        newest = self.newest_number()
        if newest is None:
            return NotFoundError(
                f"there is no run {number}; there are no runs yet", fix='conjure run "echo hello"'
            )
        return NotFoundError(f"there is no run {number}; the newest is {newest}", fix="conjure ps")

    def _rows(self, rest: str, values: Iterable[Any] = ()) -> list[RunRecord]:
        rows = self._session.query(f"SELECT {RECORD} FROM run_rows {rest}", values)
        with reading_rows():
            records = list(map(to_record, rows))
        return self._with_presumed(records)

    def _with_presumed(self, found: list[_HasFacts]) -> list[_HasFacts]:
        """What was found of runs, those told as ended that are presumed to be."""
        if not self._presumed:
            return found
        return [replace(one, facts=self._as_presumed(one.number, one.facts)) for one in found]

    def _as_presumed(self, number: int, facts: RunProgress) -> RunProgress:
        if number not in self._presumed or facts.ending is not None:
            return facts
        ending, seen_at = self._presumed[number]
        return replace(facts, ending=ending, ended_at=seen_at)

    def _column(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        """The first column of the rows that a statement gives."""
        return [_first(row) for row in self._session.query(statement, values)]

    def _value(self, statement: str, values: Iterable[Any] = ()) -> Any:
        return next(iter(self._column(statement, values)), None)


def _first(row: Row) -> Any:
    return row[next(iter(row.keys()))]


@contextmanager
def reading_rows() -> Iterator[None]:
    """What a row holds is what was written there: whatever its readers make of another content is damage.

    Raises:
        StoreError: In place of what the readers raised inside.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConjureError) as error:
        raise damaged(error) from error


class DamagedError(StoreError):
    """The database does not hold what was written."""


def damaged(error: Exception) -> DamagedError:
    """What to say of a database that does not hold what was written."""
    return DamagedError(
        f"conjure's database is damaged ({type(error).__name__}: {error}); it can be rebuilt from the run "
        "folders",
        fix="conjure doctor --reindex",
    )
