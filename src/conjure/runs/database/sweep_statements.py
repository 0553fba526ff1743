"""Sweeps in a database.

Main entry: `SweepStatements` (see `sweep_rows.Sweeps`). Invariant: whether a trial may start is decided in
the transaction that gives its run a number; so no trial is started twice, and never more at a time than are
wanted.
"""

import json
from collections.abc import Mapping
from typing import Any

from conjure.core.text import plural
from conjure.errors import NotFoundError
from conjure.runs.database.rows import FACTS, as_json
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

_RUNNING = str(SweepState.RUNNING)


class SweepStatements(Statements):
    """See `sweep_rows.Sweeps`, which says what each method does."""

    def create_sweep(
        self, request: Mapping[str, Any], *, trials: int, parallel: int, rung_metric: str | None
    ) -> int:
        """Give a sweep its number."""

        def create() -> int:
            self._session.lock_all()
            number = (self._value("SELECT max(number) FROM sweeps") or 0) + 1
            self._session.execute(
                "INSERT INTO sweeps (number, created_at, request, trials, parallel, rung_metric, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, self._now(), as_json(request), trials, parallel, rung_metric, _RUNNING),
            )
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

    def sweep_of(self, run: int) -> tuple[int, int] | None:
        """Sweep and trial that a run was started for, if any."""
        rows = self._session.query("SELECT sweep, trial FROM sweep_trials WHERE run = ?", (run,))
        return (rows[0]["sweep"], rows[0]["trial"]) if rows else None

    def end_sweep(self, number: int, state: SweepState, message: str | None = None) -> bool:
        """End a sweep; False if it has ended already."""
        changed = self._session.execute(
            "UPDATE sweeps SET state = ?, message = ?, ended_at = ? WHERE number = ? AND state = ?",
            (str(state), message, self._now(), number, _RUNNING),
        )
        return changed > 0

    def continue_sweep(self, number: int, *, trials: int) -> None:
        """Let a sweep go on, to so many trials in all."""
        self._session.execute(
            "UPDATE sweeps SET state = ?, message = NULL, ended_at = NULL, trials = ? WHERE number = ?",
            (_RUNNING, trials, number),
        )

    def settle_trial(self, sweep: int, trial: int, run: int, value: float | None, step: int | None) -> None:
        """Write down what a trial's run came to, unless it has a newer one."""
        self._session.execute(
            "UPDATE sweep_trials SET settled = 1, value = ?, step = ?"
            " WHERE sweep = ? AND trial = ? AND run = ?",
            (value, step, sweep, trial, run),
        )

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
