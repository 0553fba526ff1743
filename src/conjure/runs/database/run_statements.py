"""Runs in a database: how they come to be, move and end, and what is known of them.

Main entry: `RunStatements` (see `base.Runs`). Invariant: a run moves only where `schema.status` lets it, and
that is checked in the transaction that moves it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from conjure.core.config import heartbeat_interval_s
from conjure.errors import NotFoundError
from conjure.runs.database.base import (
    KILL,
    LONGEST_RETRY_DELAY_S,
    PARAM,
    Lease,
    ListedRun,
    ResourceClaim,
    RunFilter,
    RunRelation,
    SupersededError,
)
from conjure.runs.database.record_files import folder_numbers
from conjure.runs.database.rows import (
    CLAIM,
    IN_QUEUE,
    LISTED,
    as_json,
    by_param,
    ending_columns,
    fact_as_json,
    selection,
    sql_placeholders,
    to_claim,
    to_listed,
)
from conjure.runs.database.statements import reading_rows
from conjure.runs.database.sweep_rows import TrialClaim
from conjure.runs.database.sweep_statements import SweepStatements
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    AttemptFacts,
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
)
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import (
    PHASES,
    Ending,
    EndReason,
    IllegalMoveError,
    RunProgress,
    RunStatus,
    check_move,
    check_retry,
)

_HasFacts = TypeVar("_HasFacts", RunRecord, ListedRun)
_Item = TypeVar("_Item")


class RunStatements(SweepStatements):
    """See `base.Runs`, which says what each method does."""

    # ---- a run's life --------------------------------------------------------------------------------------

    def create_run(
        self,
        spec: RunSpec,
        owner: Owner,
        reserve: Callable[[int], None],
        *,
        parent: int | None = None,
        rerun_of: int | None = None,
        trial: TrialClaim | None = None,
    ) -> RunRecord:
        """Give a run its number."""
        number = self._reserve_number(reserve)

        def create() -> RunRecord:
            record = RunRecord(
                number,
                spec.stored(),
                RunProgress({RunStatus.REQUESTED: round(self._session.now(), 6)}),
                owner=owner,
                parent=parent,
                rerun_of=rerun_of,
            )
            if trial is not None:
                self._claim_trial(trial, number)
            self._insert(record)
            self._write_record(record)
            return record

        return self._session.transact(create)

    def _reserve_number(self, reserve: Callable[[int], None]) -> int:
        """A number whose folder is ours; making the folder keeps nobody from the database."""
        while True:
            number = self._session.reserve_number()
            try:
                with self._session.errors_translated():
                    reserve(number)
            except FileExistsError:
                self._session.skip_numbers(max([number, *folder_numbers(self.home.runs)]))
            except BaseException:
                self._session.release_number(number)
                raise
            else:
                return number

    def move(self, number: int, status: RunStatus) -> None:
        """Enter the next phase."""
        self._change(number, lambda: self._move(number, status))

    def _move(self, number: int, status: RunStatus) -> None:
        check_move(self.get(number).status, status)
        self._set(number, {f"{status}_at": self._now()})

    def admit(self, number: int, decide: Callable[[list[ResourceClaim]], tuple[int, ...] | None]) -> bool:
        """Let a queued run go on to building if there is room for it."""

        def admit() -> bool:
            check_move(self.get(number).status, RunStatus.BUILDING)
            gpu_ids = decide(self.claims())
            if gpu_ids is None:
                return False
            self._move(number, RunStatus.BUILDING)
            self._set(number, {"gpu_ids": as_json(gpu_ids)})
            return True

        return self._change_alone(number, admit)

    def _change_alone(self, number: int, act: Callable[[], bool]) -> bool:
        """Change a run while nobody admits another."""

        def change() -> bool:
            self._session.lock_all()
            self._session.lock_run(number)
            self._check_fence(number)
            return act()

        return self._session.transact(change)

    def enqueue(self, number: int, queue: Owner) -> None:
        """Leave a run without a supervisor in a machine's queue."""

        def enqueue() -> None:
            if self.get(number).status is not RunStatus.QUEUED:
                self._move(number, RunStatus.QUEUED)
            self._set(number, {"owner": fact_as_json(queue)})

        self._change(number, enqueue)

    def end_queued_run(self, number: int, ending: Ending, *, total_s: float | None = None) -> bool:
        """End a run if it still waits in a queue."""

        def end() -> bool:
            waits = self._value(f"SELECT count(*) FROM run_rows WHERE number = ? AND {IN_QUEUE}", (number,))
            if waits:
                self._end(number, ending, None, total_s)
            return bool(waits)

        return self._change(number, end)

    def cancel_submission(self, number: int, ending: Ending) -> bool:
        """End a run that was asked for and not yet left to a queue or a supervisor."""

        def end() -> bool:
            is_submitted = self.get(number).status is RunStatus.REQUESTED and not self.newest_attempt(number)
            if is_submitted:
                self._end(number, ending, None, None)
            return is_submitted

        return self._change(number, end)

    def retry_run(
        self, number: int, ending: Ending, queue: Owner, *, host: str | None, delay_s: float
    ) -> None:
        """End an attempt at a run, and leave the run to a queue for the next one."""

        def retry() -> None:
            record = self.get(number)
            check_retry(record.status)
            if record.end_request is not None:
                raise IllegalMoveError(f"run {number} is to end: there is no further attempt")
            now = self._session.now()
            attempt = AttemptFacts(
                len(record.attempts) + 1,
                host,
                record.facts.entered.get(RunStatus.RUNNING),
                round(now, 6),
                str(ending.reason),
                ending.exit_code,
                ending.signal,
                ending.message,
            )
            begun = {f"{phase}_at": None for phase in PHASES[PHASES.index(RunStatus.BUILDING) :]}
            self._set(
                number,
                {
                    **begun,
                    "queued_at": self._now(),
                    "owner": fact_as_json(queue),
                    "gpu_ids": as_json(()),
                    "attempts": as_json([asdict(one) for one in (*record.attempts, attempt)]),
                    "retry_at": round(now + delay_s, 3),
                },
            )
            # Its metrics are not kept either; those that a checkpoint brings back are read again.
            self._session.execute("DELETE FROM sweep_rungs WHERE run = ?", (number,))
            self._rewrite(number)

        self._change(number, retry)

    def end_run(
        self, number: int, ending: Ending, *, command_s: float | None = None, total_s: float | None = None
    ) -> RunRecord:
        """Close a run's record for good."""
        return self._change(number, lambda: self._end(number, ending, command_s, total_s))

    def _end(self, number: int, ending: Ending, command_s: float | None, total_s: float | None) -> RunRecord:
        check_move(self.get(number).status, ending.reason.status)
        self._set(number, ending_columns(ending, self._now(), command_s, total_s))
        self._session.execute("DELETE FROM requests WHERE run = ?", (number,))
        return self._rewrite(number)

    def presume_ended(self, number: int, ending: Ending) -> None:
        """Tell of a run as ended though that cannot be written now."""
        self._presumed[number] = (ending, self._session.now())

    def request_end(self, number: int, what: str) -> bool:
        """Ask the owner of an active run to `STOP`, `PRUNE` or `KILL` it."""

        def request() -> bool:
            record = self.get(number)
            if record.status.is_final:
                return False
            if record.end_request != KILL:
                self._set(number, {"end_request": what})
            return True

        return self._change(number, request)

    def end_request(self, number: int) -> str | None:
        """`STOP`, `PRUNE` or `KILL` if somebody asked for it, else None."""
        return self._value("SELECT end_request FROM runs WHERE number = ?", (number,))

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
            name: fact_as_json(fact) for name, fact in given.items() if fact is not None
        }
        if identity is not None:
            columns["identity"] = identity
        if mounts is not None:
            columns["mounts"] = as_json([asdict(mount) for mount in mounts])

        def write() -> None:
            self._set_sources(number, mounts or ())
            self._set(number, columns)
            if self.facts(number).status.is_final:
                self._rewrite(number)

        self._change(number, write)

    # ---- leases --------------------------------------------------------------------------------------------

    def begin_attempt(self, number: int, owner: Owner, *, expected: int | None = None) -> int:
        """Take a run over."""

        def begin() -> int:
            status = self.get(number).status
            if status.is_final:
                raise IllegalMoveError(f"run {number} is {status}: no supervisor can take it over")
            newest = self.newest_attempt(number)
            if expected is not None and newest + 1 != expected:
                raise SupersededError(f"run {number} has had attempt {newest}: {expected} cannot follow it")
            self._session.execute(
                "INSERT INTO leases (run, attempt, heartbeat_at) VALUES (?, 1, ?) ON CONFLICT (run)"
                " DO UPDATE SET attempt = leases.attempt + 1, heartbeat_at = excluded.heartbeat_at",
                (number, self._session.now()),
            )
            self._set(number, {"owner": fact_as_json(owner), "retry_at": None})
            return self.newest_attempt(number)

        return self._change(number, begin)

    def age_s(self, number: int) -> float:
        """Seconds since a run was asked for, by the database's clock."""
        return max(self._session.now() - self.facts(number).entered[RunStatus.REQUESTED], 0.0)

    def newest_attempt(self, number: int) -> int:
        """How many supervisors a run has had."""
        return self._value("SELECT attempt FROM leases WHERE run = ?", (number,)) or 0

    def set_request(self, number: int, request: str) -> None:
        """Keep what the supervisors of a run are given until it has ended."""

        def keep() -> None:
            status = self.get(number).status
            if status.is_final:
                raise IllegalMoveError(f"run {number} is {status}")
            self._session.execute(
                "INSERT INTO requests (run, request) VALUES (?, ?)"
                " ON CONFLICT (run) DO UPDATE SET request = excluded.request",
                (number, request),
            )

        self._change(number, keep)

    def request(self, number: int) -> str | None:
        """What `set_request` kept."""
        return self._value("SELECT request FROM requests WHERE run = ?", (number,))

    def write_as(self, number: int, attempt: int) -> None:
        """Make this object write of a run as the supervisor of that attempt."""
        self._fence = (number, attempt)

    def renew_lease(self, number: int, attempt: int) -> bool:
        """Tell that the supervisor of a run lives."""
        renewed = self._session.execute(
            "UPDATE leases SET heartbeat_at = ? WHERE run = ? AND attempt = ?",
            (self._session.now(), number, attempt),
        )
        return renewed > 0 or not self._value("SELECT count(*) FROM leases WHERE run = ?", (number,))

    def leases(self) -> dict[int, Lease]:
        """The leases of the active runs whose supervisors tell that they live."""
        now = self._session.now()
        interval_s = heartbeat_interval_s(self.home)
        rows = self._session.query(
            "SELECT number, attempt, owner_host_id, heartbeat_at FROM run_rows"
            " JOIN leases ON leases.run = number WHERE end_reason IS NULL AND owner_pid > 0"
        )
        return {
            row["number"]: Lease(
                row["number"],
                row["attempt"],
                row["owner_host_id"],
                max(now - row["heartbeat_at"], 0.0),
                interval_s,
            )
            for row in rows
        }

    # ---- looking -------------------------------------------------------------------------------------------

    def select(self, wanted: RunFilter | None = None) -> list[RunRecord]:
        """The runs that a filter lets through."""
        wanted = wanted if wanted is not None else RunFilter()
        return self._by_status(wanted, lambda wider: self._rows(*selection(wider)))

    def listing(self, wanted: RunFilter) -> list[ListedRun]:
        """The runs that a filter lets through, with what a list shows of them."""
        return self._by_status(wanted, self._listing)

    def _listing(self, wanted: RunFilter) -> list[ListedRun]:
        if wanted.order is not None and wanted.order.startswith(PARAM):
            return self._listed(_page(self._ordered_numbers(wanted), wanted))
        rest, values = selection(wanted)
        rows = self._session.query(f"SELECT {LISTED} FROM run_rows {rest}", values)
        with reading_rows():
            listed = list(map(to_listed, rows))
        return self._with_presumed(listed)

    def listing_page(self, wanted: RunFilter) -> tuple[list[ListedRun], int]:
        """What `listing` and `count` give; where every run must be looked at, that is done once."""
        looks_at_all = bool(wanted.search) or (wanted.order or "").startswith(PARAM)
        if not looks_at_all or (self._presumed and wanted.statuses):
            return self.listing(wanted), self.count(wanted)
        numbers = self._ordered_numbers(wanted)
        return self._listed(_page(numbers, wanted)), len(numbers)

    def _ordered_numbers(self, wanted: RunFilter) -> list[int]:
        """All runs that a filter lets through, its limit aside, in the order it asks for."""
        name = (wanted.order or "").removeprefix(PARAM)
        if name == wanted.order or not name:
            rest, values = selection(replace(wanted, limit=None))
            return self._column(f"SELECT number FROM run_rows {rest}", values)
        # Params are JSON, whose values databases order each in a way of their own.
        rest, values = selection(replace(wanted, order=None, limit=None))
        rows = self._session.query(f"SELECT number, params FROM run_rows {rest}", values)
        with reading_rows():
            params = [(row["number"], json.loads(row["params"] or "{}")) for row in rows]
        return by_param(params, name, highest_first=wanted.highest_first)

    def _listed(self, numbers: list[int]) -> list[ListedRun]:
        found = self._session.query(
            f"SELECT {LISTED} FROM run_rows WHERE number IN ({sql_placeholders(numbers)})", numbers
        )
        with reading_rows():
            listed = {run.number: run for run in map(to_listed, found)}
        return self._with_presumed([listed[number] for number in numbers if number in listed])

    def _by_status(self, wanted: RunFilter, find: Callable[[RunFilter], list[_HasFacts]]) -> list[_HasFacts]:
        """What `find` finds; where a status is presumed, the database cannot choose by it."""
        if not self._presumed or not wanted.statuses:
            return find(wanted)
        found = find(replace(wanted, statuses=(), limit=None, offset=0))
        return _page([one for one in found if one.facts.status in wanted.statuses], wanted)

    def count(self, wanted: RunFilter) -> int:
        """How many runs a filter lets through, its limit aside."""
        if self._presumed and wanted.statuses:
            return len(self.listing(replace(wanted, limit=None, offset=0, order=None)))
        rest, values = selection(replace(wanted, limit=None, order=None))
        return self._value(f"SELECT count(*) FROM (SELECT number FROM run_rows {rest}) AS found", values)

    def active(self) -> list[RunRecord]:
        """Runs that have not ended, oldest first."""
        rows = self._rows("WHERE end_reason IS NULL ORDER BY number")
        return [record for record in rows if not record.status.is_final]

    def supervised(self) -> list[RunRecord]:
        """Active runs that have a supervisor, or should; oldest first."""
        rows = self._rows(f"WHERE end_reason IS NULL AND NOT ({IN_QUEUE}) ORDER BY number")
        return [record for record in rows if not record.status.is_final]

    def supervised_by(self, machine: str, *, silent_for_s: float) -> list[RunRecord]:
        """Those of `supervised` that are a machine's, or nobody's, or whose supervisor has been silent."""
        rows = self._rows(
            f"WHERE end_reason IS NULL AND NOT ({IN_QUEUE}) AND (owner_host_id IS NULL OR owner_host_id = ?"
            " OR EXISTS (SELECT 1 FROM leases WHERE run = number AND heartbeat_at < ?)) ORDER BY number",
            (machine, self._session.now() - silent_for_s),
        )
        return [record for record in rows if not record.status.is_final]

    def claims(self) -> list[ResourceClaim]:
        """What the active runs ask for and have, oldest first."""
        rows = self._session.query(f"SELECT {CLAIM} FROM run_rows WHERE end_reason IS NULL ORDER BY number")
        with reading_rows():
            claims = [claim for claim in map(to_claim, rows) if claim.number not in self._presumed]
        if any(claim.retry_at is not None for claim in claims):
            now = self._session.now()
            claims = [_with_delay(claim, now) for claim in claims]
        awaited = sorted({number for claim in claims for number in claim.after})
        statuses = self._statuses(awaited)
        return [_with_dependencies(claim, statuses) if claim.after else claim for claim in claims]

    def _statuses(self, numbers: list[int]) -> dict[int, RunStatus | None]:
        """Whether and how some runs ended; None for those that have not, and no entry for those not there."""
        if not numbers:
            return {}
        rows = self._session.query(
            f"SELECT number, end_reason FROM runs WHERE number IN ({sql_placeholders(numbers)})", numbers
        )
        return {
            row["number"]: EndReason(row["end_reason"]).status if row["end_reason"] else None for row in rows
        }

    def queued(self, queue: Owner) -> dict[int, bool]:
        """The runs in a machine's queue, each with whether it was put there since the machine was started."""
        rows = self._session.query(
            f"SELECT number, owner_boot_id FROM run_rows WHERE {IN_QUEUE} AND owner_host_id = ?"
            " ORDER BY number",
            (queue.host_id,),
        )
        return {
            row["number"]: row["owner_boot_id"] == queue.boot_id
            for row in rows
            if row["number"] not in self._presumed
        }

    def active_numbers(self) -> set[int]:
        """The numbers of the runs that have not ended."""
        return set(self._column("SELECT number FROM runs WHERE end_reason IS NULL"))

    def numbers(self) -> set[int]:
        """The numbers of all runs there are rows of."""
        return set(self._column("SELECT number FROM runs"))

    def last_number(self, back: int = 0) -> int:
        """The number of the newest run, or of the one so many before it."""
        number = self._value("SELECT number FROM runs ORDER BY number DESC LIMIT 1 OFFSET ?", (back,))
        if number is None:
            count = self._value("SELECT count(*) FROM runs")
            have = f"there are only {count}" if count else "there are no runs yet"
            raise NotFoundError(f"there is no run last{f'~{back}' if back else ''}; {have}", fix="conjure ps")
        return number

    def users_of(self, number: int) -> list[int]:
        """Runs that mount something of this run, oldest first."""
        return self._column(
            "SELECT DISTINCT run FROM run_sources WHERE source_run = ? ORDER BY run", (number,)
        )

    def sources_in_use(self) -> dict[str, list[int]]:
        """Every resource that some run mounts, with the numbers of those runs."""
        found: dict[str, list[int]] = {}
        for row in self._session.query("SELECT source, run FROM run_sources ORDER BY run"):
            found.setdefault(row["source"], []).append(row["run"])
        return found

    def kinships(self) -> list[RunRelation]:
        """The runs that repeat another, or were started by one; oldest first."""
        rows = self._session.query(
            "SELECT number, rerun_of, parent FROM runs"
            " WHERE rerun_of IS NOT NULL OR parent IS NOT NULL ORDER BY number"
        )
        return [RunRelation(row["number"], row["rerun_of"], row["parent"]) for row in rows]

    def completed_equal(self, identity: str) -> RunRecord | None:
        """The newest completed run with this identity whose outputs are still there, or None."""
        rows = self._rows(
            "WHERE identity = ? AND end_reason = ? AND archived_at IS NULL ORDER BY number DESC",
            (identity, str(EndReason.COMPLETED)),
        )
        return next((row for row in rows if row.outputs is None or not row.outputs.removed), None)


def _page(found: list[_Item], wanted: RunFilter) -> list[_Item]:
    """The part of all that was found that a filter's offset and limit leave."""
    end = None if wanted.limit is None else wanted.offset + wanted.limit
    return found[wanted.offset : end]


def _with_delay(claim: ResourceClaim, now: float) -> ResourceClaim:
    """A claim with how long its next attempt is put off: not at all, if the clock was set back since."""
    delay_s = 0.0 if claim.retry_at is None else claim.retry_at - now
    return claim._replace(delay_s=delay_s if 0.0 < delay_s <= LONGEST_RETRY_DELAY_S else 0.0)


def _with_dependencies(claim: ResourceClaim, statuses: Mapping[int, RunStatus | None]) -> ResourceClaim:
    """A claim that names only what it still waits for, and what failed of it."""
    pending = tuple(number for number in claim.after if statuses.get(number) is not RunStatus.COMPLETE)
    ended = (number for number in pending if number not in statuses or statuses[number] is not None)
    failed = next(ended, None)
    return claim._replace(after=pending, failed=None if failed is None else (failed, statuses.get(failed)))
