"""Sweeps in a database.

Main entry: `SweepStatements` (see `sweep_rows.Sweeps`). Invariant: whether a trial may start is decided in
the transaction that gives its run a number; so no trial is started twice, and never more at a time than are
wanted.

Whenever a sweep begins, ends or goes on, and where a trial is settled after its end, it is written with its
trials to ``sweeps/<number>.json``. `reindex` restores it from there; trials that were started after that are
then run again if it is resumed.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from conjure.core.text import plural
from conjure.errors import NotFoundError, StoreError
from conjure.runs.database.record_files import read_sweep, sweep_numbers, write_sweep
from conjure.runs.database.rows import FACTS, as_json, sql_placeholders
from conjure.runs.database.session import Row
from conjure.runs.database.statements import Statements, reading_rows
from conjure.runs.database.sweep_rows import (
    Rungs,
    SweepRow,
    SweepState,
    TrialClaim,
    TrialRefusedError,
    TrialRow,
)
from conjure.runs.schema.record import facts_from_dict

_SWEEP = "number, state, request, parallel, trials, created_at, ended_at, message"
_TRIAL = "sweep_trials.trial, run, attempt, sweep_trials.params, settled, value, step"

# What a sweep's file holds of its rows, and of which kinds.
_STORED_SWEEP = {
    **dict.fromkeys(("number", "parallel", "trials"), int),
    **dict.fromkeys(("state", "request", "created_at"), str),
    **dict.fromkeys(("ended_at", "message", "rung_metric"), str | None),
}
_STORED_TRIAL = {
    **dict.fromkeys(("trial", "run", "attempt", "settled"), int),
    **{"params": str, "value": float | None, "step": int | None},
}

_RUNNING = str(SweepState.RUNNING)


class SweepStatements(Statements):
    """See `sweep_rows.Sweeps`, which says what each method does."""

    def create_sweep(
        self, request: Mapping[str, Any], *, trials: int, parallel: int, rung_metric: str | None
    ) -> int:
        """Give a sweep its number."""

        def create() -> int:
            self._session.lock_all()
            newest = self._value("SELECT max(number) FROM sweeps") or 0
            number = max([newest, *sweep_numbers(self.home)]) + 1
            self._session.execute(
                "INSERT INTO sweeps (number, created_at, request, trials, parallel, rung_metric, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, self._now(), as_json(request), trials, parallel, rung_metric, _RUNNING),
            )
            self._write_sweep(number)
            return number

        return self._session.transact(create)

    def sweep(self, number: int) -> SweepRow:
        """One sweep."""
        rows = self._session.query(f"SELECT {_SWEEP} FROM sweeps WHERE number = ?", (number,))
        if not rows:
            newest = self._value("SELECT max(number) FROM sweeps")
            have = "there are no sweeps yet" if newest is None else f"the newest is {newest}"
            raise NotFoundError(f"there is no sweep {number}; {have}", fix="conjure sweep ls")
        return _to_sweep(rows[0])

    def sweeps(self) -> list[SweepRow]:
        """All sweeps, newest first."""
        return list(map(_to_sweep, self._session.query(f"SELECT {_SWEEP} FROM sweeps ORDER BY number DESC")))

    def trials(self, sweep: int) -> list[TrialRow]:
        """The trials of a sweep that were started, in order."""
        rows = self._session.query(
            f"SELECT {_TRIAL}, command_s, {FACTS} FROM sweep_trials LEFT JOIN runs ON runs.number = run"
            " WHERE sweep = ? ORDER BY trial",
            (sweep,),
        )
        with reading_rows():
            return list(map(_to_trial, rows))

    def end_sweep(
        self, number: int, state: SweepState, message: str | None = None, *, trials: int | None = None
    ) -> bool:
        """End a sweep; False if it has ended already, or has another number of trials than a given one."""

        def end() -> bool:
            self._session.lock_all()  # after a trial that is being started, which is there to be stopped then
            changed = self._session.execute(
                "UPDATE sweeps SET state = ?, message = ?, ended_at = ?"
                " WHERE number = ? AND state = ? AND trials = COALESCE(?, trials)",
                (str(state), message, self._now(), number, _RUNNING, trials),
            )
            if changed:
                self._write_sweep(number)
            return changed > 0

        return self._session.transact(end)

    def continue_sweep(self, number: int, *, trials: int) -> None:
        """Let a sweep go on, to so many trials in all."""

        def go_on() -> None:
            self._session.execute(
                "UPDATE sweeps SET state = ?, message = NULL, ended_at = NULL, trials = ? WHERE number = ?",
                (_RUNNING, trials, number),
            )
            self._write_sweep(number)

        self._session.transact(go_on)

    def settle_trial(self, sweep: int, trial: int, run: int, value: float | None, step: int | None) -> None:
        """Write down what a trial's run came to, unless it has a newer one."""

        def settle() -> None:
            self._session.lock_all()  # of two that write the file at a time, the later one has to know all
            self._session.execute(
                "UPDATE sweep_trials SET settled = 1, value = ?, step = ?"
                " WHERE sweep = ? AND trial = ? AND run = ?",
                (value, step, sweep, trial, run),
            )
            if self.sweep(sweep).state is not SweepState.RUNNING:  # else its end writes it
                self._write_sweep(sweep)

        self._session.transact(settle)

    def rung_metric(self, run: int) -> str | None:
        """The metric whose rungs are to be written down for a run."""
        return self._value(
            "SELECT rung_metric FROM sweeps JOIN sweep_trials ON sweep = number WHERE run = ?", (run,)
        )

    def set_rung(self, run: int, rung: int, value: float | None) -> None:
        """Write down the value with which a run reached a rung."""
        self._change(
            run,
            lambda: self._session.execute(
                "INSERT INTO sweep_rungs (run, rung, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (run, rung, value),
            ),
        )

    def rungs(self, sweep: int) -> dict[int, Rungs]:
        """The rungs of a sweep's trials, by run."""
        found: dict[int, dict[int, float | None]] = {}
        for row in self._session.query(
            "SELECT sweep_rungs.run, rung, sweep_rungs.value FROM sweep_rungs JOIN sweep_trials"
            " ON sweep_trials.run = sweep_rungs.run WHERE sweep = ? ORDER BY sweep_rungs.run, rung",
            (sweep,),
        ):
            found.setdefault(row["run"], {})[row["rung"]] = row["value"]
        return {run: Rungs(run, values) for run, values in found.items()}

    # ---- in files ------------------------------------------------------------------------------------------

    def _write_sweep(self, number: int) -> None:
        sweep = self._stored(_STORED_SWEEP, "sweeps WHERE number = ?", number)[0]
        trials = self._stored(_STORED_TRIAL, "sweep_trials WHERE sweep = ? ORDER BY trial", number)
        with self._session.errors_translated():
            write_sweep(self.home, sweep, trials)

    def _stored(self, columns: Collection[str], rest: str, number: int) -> list[dict[str, Any]]:
        rows = self._session.query(f"SELECT {', '.join(columns)} FROM {rest}", (number,))
        return [{name: row[name] for name in columns} for row in rows]

    def _rebuild_sweeps(self) -> None:
        """Bring back the sweeps that are only in files; those from before there were files get one now."""
        known = set(self._column("SELECT number FROM sweeps"))
        runs = set(self._column("SELECT number FROM runs"))
        for number in sorted(known | sweep_numbers(self.home)):
            stored = read_sweep(self.home, number)
            if stored is not None and not _is_sound(*stored):
                stored = None
            if number in known and stored is None:
                self._write_sweep(number)
            elif number not in known and stored is not None:
                self._restore("sweeps", _STORED_SWEEP, stored[0])
                for trial in stored[1]:
                    if trial["run"] in runs:  # else it is as one that was never started
                        self._restore("sweep_trials", ("sweep", *_STORED_TRIAL), {**trial, "sweep": number})

    def _restore(self, table: str, columns: Collection[str], row: Mapping[str, Any]) -> None:
        self._session.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({sql_placeholders(columns)})"
            " ON CONFLICT DO NOTHING",
            [row[name] for name in columns],
        )

    # ---- starting trials -----------------------------------------------------------------------------------

    def _claim_trial(self, claim: TrialClaim, run: int) -> None:
        """Within the transaction that creates the run: have it be the trial's.

        Raises:
            TrialRefusedError: It must not be.
        """
        self._session.lock_all()
        sweep = self.sweep(claim.sweep)
        if sweep.state is not SweepState.RUNNING:
            raise TrialRefusedError(f"sweep {claim.sweep} is {sweep.state}")
        going_on = self._value(
            "SELECT count(*) FROM sweep_trials JOIN runs ON runs.number = run"
            " WHERE sweep = ? AND end_reason IS NULL",
            (claim.sweep,),
        )
        if going_on >= sweep.parallel:
            raise TrialRefusedError(f"sweep {claim.sweep} already has {plural(going_on, 'active trial')}")
        if not self._take_trial(claim, run):
            raise TrialRefusedError(f"trial {claim.trial} of sweep {claim.sweep} was started already")

    def _take_trial(self, claim: TrialClaim, run: int) -> bool:
        if claim.attempt == 1:
            taken = self._session.execute(
                "INSERT INTO sweep_trials (sweep, trial, run, attempt, params, settled)"
                " VALUES (?, ?, ?, 1, ?, 0) ON CONFLICT DO NOTHING",
                (claim.sweep, claim.trial, run, as_json(dict(claim.params))),
            )
        else:
            taken = self._session.execute(
                "UPDATE sweep_trials SET run = ?, attempt = ?, settled = 0, value = NULL, step = NULL"
                " WHERE sweep = ? AND trial = ? AND attempt = ?"
                " AND run IN (SELECT number FROM runs WHERE end_reason IS NOT NULL)",
                (run, claim.attempt, claim.sweep, claim.trial, claim.attempt - 1),
            )
        return taken > 0


def _is_sound(sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file holds rows that can be read once they are in the database."""
    try:
        _to_sweep(sweep)
        params = [json.loads(trial["params"]) for trial in trials]
        wanted = [(sweep, _STORED_SWEEP), *((trial, _STORED_TRIAL) for trial in trials)]
        fit = (isinstance(row[name], kind) for row, kinds in wanted for name, kind in kinds.items())
        return all(fit) and all(isinstance(some, dict) for some in params)
    except (StoreError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _to_sweep(row: Row) -> SweepRow:
    with reading_rows():
        return SweepRow(
            row["number"],
            SweepState(row["state"]),
            json.loads(row["request"]),
            row["parallel"],
            row["trials"],
            row["created_at"],
            row["ended_at"],
            row["message"],
        )


def _to_trial(row: Row) -> TrialRow:
    return TrialRow(
        row["trial"],
        row["run"],
        row["attempt"],
        json.loads(row["params"]),
        facts_from_dict(dict(row)),
        row["command_s"],
        settled=bool(row["settled"]),
        value=row["value"],
        step=row["step"],
    )
