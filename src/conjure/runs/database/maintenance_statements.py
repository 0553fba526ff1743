"""What maintenance asks of a database, and rebuilding it from the run folders.

Main entry: `MaintenanceStatements` (see `base.Maintenance`). Invariant: a run that goes on keeps its row; of
one that has ended, its file decides.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from conjure.core.files import parse_json
from conjure.errors import StoreError
from conjure.runs.database.base import KeptParts, RunSize
from conjure.runs.database.label_statements import LabelStatements
from conjure.runs.database.metric_statements import MetricStatements
from conjure.runs.database.record_files import folder_numbers, read_links, read_record
from conjure.runs.database.rows import RECORD, is_as_written, to_columns
from conjure.runs.database.statements import DamagedError, reading_rows
from conjure.runs.schema.record import RunRecord, from_iso
from conjure.runs.schema.run_folder import RECORD_FILE
from conjure.runs.telemetry.metrics import Summary

_SummariesOfRuns = dict[int, list[Summary]]
_BATCH = 100
_PARTS_OF_RECORDS = ("run_labels", "run_sources", "metrics")
_TABLES_OF_RUNS = (*_PARTS_OF_RECORDS, "leases")


class MaintenanceStatements(LabelStatements, MetricStatements):
    """See `base.Maintenance`, which says what each method does."""

    def sizes(self) -> list[RunSize]:
        """Every run, the newest first, with how much its outputs hold."""
        rows = self._session.query(
            "SELECT number, outputs_removed, outputs_size_bytes, coalesce(ended_at, requested_at)"
            " AS changed_at FROM run_rows ORDER BY number DESC"
        )
        with reading_rows():
            return [
                RunSize(
                    row["number"],
                    row["outputs_removed"] == 0,
                    row["outputs_size_bytes"],
                    from_iso(row["changed_at"]),
                )
                for row in rows
            ]

    def environments_in_use(self, *, active_only: bool) -> set[str]:
        """Digests of the environments of runs whose files were not removed; or of the active ones alone."""
        return set(
            self._column(
                "SELECT DISTINCT environment_digest FROM run_rows"
                " WHERE environment IS NOT NULL AND coalesce(outputs_removed, 0) = 0"
                + (" AND end_reason IS NULL" if active_only else "")
            )
        )

    def code_trees(self) -> dict[int, str]:
        """The tree of each run whose code is kept."""
        rows = self._session.query(
            "SELECT number, code_tree FROM run_rows"
            " WHERE code_tree != '' AND coalesce(outputs_removed, 0) = 0"
        )
        return {row["number"]: row["code_tree"] for row in rows}

    def kept_parts(self) -> list[KeptParts]:
        """What must be in the folders of the runs that have ended."""
        rows = self._session.query(
            "SELECT number, queued_at, outputs_removed FROM run_rows"
            " WHERE end_reason IS NOT NULL ORDER BY number"
        )
        return [
            KeptParts(row["number"], row["queued_at"] is not None, row["outputs_removed"] == 0)
            for row in rows
        ]

    def stray_rows(self) -> list[str]:
        """Rows that belong to runs that are not there, one phrase per table; there should be none."""
        counts = {
            table: self._value(f"SELECT count(*) FROM {table} WHERE run NOT IN (SELECT number FROM runs)")
            for table in _TABLES_OF_RUNS
        }
        return [
            f"{table} has rows of runs that are not there: {count}"
            for table, count in counts.items()
            if count
        ]

    @contextmanager
    def while_no_number_is_given(self) -> Iterator[None]:
        """Keep other processes from giving numbers, and from every other change, while the block lasts."""
        with self._session.transaction():
            self._session.lock_all()
            yield

    # ---- rebuilding ----------------------------------------------------------------------------------------

    def put_record(self, record: RunRecord) -> None:
        """Make the database say what a record says, whatever it said before."""
        summaries = self._summarised(record.number)
        self._change(record.number, lambda: self._put(record, summaries))

    def reindex(self) -> tuple[list[int], list[int]]:
        """Rebuild links, sweeps, and the rows of all runs that do not still go on, from their files."""
        rebuilt: set[int] = set()
        unreadable: set[int] = set()
        numbers = folder_numbers(self.home.runs)
        for start in range(0, len(numbers), _BATCH):  # in batches, so that others get their turn
            batch = numbers[start : start + _BATCH]
            read = self._read_summaries(batch)
            self._session.transact(
                lambda batch=batch, read=read: self._rebuild_all(batch, read, rebuilt, unreadable)
            )
        self._session.transact(lambda: self._finish_rebuilding(rebuilt, unreadable))
        return sorted(rebuilt), sorted(unreadable)

    def _read_summaries(self, numbers: Iterable[int]) -> _SummariesOfRuns:
        """How the metrics of runs stand that do not go on: reading may be long, and keeps nobody waiting."""
        found: _SummariesOfRuns = {}
        for number in set(numbers) - self.active_numbers():
            with suppress(OSError):  # it comes again where it matters
                found[number] = self._summarised(number)
        return found

    def _rebuild_all(
        self, numbers: Iterable[int], read: _SummariesOfRuns, rebuilt: set[int], unreadable: set[int]
    ) -> None:
        for number in numbers:
            self._session.lock_run(number)
            self._rebuild(number, read, rebuilt, unreadable)

    def _rebuild(self, number: int, read: _SummariesOfRuns, rebuilt: set[int], unreadable: set[int]) -> None:
        def summaries() -> list[Summary]:
            return read[number] if number in read else self._summarised(number)

        if self._is_as_written(number):
            self._replace_summaries(number, summaries())
            rebuilt.add(number)
            return
        record = read_record(self.home.run_folder(number))
        if record is None or record.number != number:
            # Where the file alone is lost or damaged, the database knows what it said.
            known = [] if record is not None else self._readable_rows(number)
            for row in known:
                self._write_record(row)
            (rebuilt if known else unreadable).add(number)
        # The file of a run that goes on tells how it began; the row knows how far it is.
        elif not self._goes_on(number):
            self._put(record, summaries())
            rebuilt.add(number)

    def _finish_rebuilding(self, rebuilt: set[int], unreadable: set[int]) -> None:
        self._session.lock_all()
        for number in self.damaged_rows(sorted(self.numbers() - rebuilt)):
            self._session.execute("DELETE FROM runs WHERE number = ?", (number,))
        self._session.skip_numbers(max([0, *rebuilt, *unreadable]))
        self._rebuild_links()
        self._rebuild_sweeps()

    def _goes_on(self, number: int) -> bool:
        return any(not record.status.is_final for record in self._readable_rows(number))

    def damaged_rows(self, suspects: Iterable[int]) -> list[int]:
        """Those of the runs whose rows cannot be read."""
        return [number for number in suspects if not self._readable_rows(number)]

    def suspects(self) -> list[int]:
        """Runs whose row does not say, word for word, what their file says."""
        return [number for number in sorted(self.numbers()) if not self._is_as_written(number)]

    def _is_as_written(self, number: int) -> bool:
        try:
            rows = self._session.query(f"SELECT {RECORD} FROM run_rows WHERE number = ?", (number,))
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

    def _readable_rows(self, number: int) -> list[RunRecord]:
        try:
            return self._rows("WHERE number = ?", (number,))
        except DamagedError:  # and no other: a row that cannot be had this moment is no reason to replace it
            return []

    def _put(self, record: RunRecord, summaries: Iterable[Summary]) -> None:
        # In place: its lease keeps earlier supervisors away, and others find its log by `run_streams`.
        number = record.number
        if self._value("SELECT count(*) FROM runs WHERE number = ?", (number,)):
            for table in _PARTS_OF_RECORDS:
                self._session.execute(f"DELETE FROM {table} WHERE run = ?", (number,))
            if record.status.is_final:
                self._session.execute("DELETE FROM requests WHERE run = ?", (number,))
            self._set(number, to_columns(record))
            self._insert_parts(record)
        else:
            self._insert(record)
        self._set_summaries(number, summaries)

    def _rebuild_links(self) -> None:
        """The file is as new as the database; a home from before there was such a file gets one now."""
        known = read_links(self.home)
        if known is None:
            if self.links():
                self._write_links()
            return
        self._session.execute("DELETE FROM links")
        for link in known:
            self._session.execute(
                "INSERT INTO links VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (link.name, link.resource, link.created_at),
            )
