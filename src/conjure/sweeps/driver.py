"""What drives a sweep: it starts trials, writes down what they came to, and ends those that do badly.

Main entry: `Driver.run`. Invariant: the database alone says what has been done, and whether a trial may start
is decided there; so a driver that is killed at any moment, or that is not alone, loses and repeats nothing.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.units import format_duration
from conjure.errors import ConjureError, StoreError, UsageError
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.database.base import KILL, PRUNE, STOP, Database
from conjure.runs.database.sweep_rows import SweepState, TrialClaim, TrialRefusedError, TrialRow
from conjure.runs.executors.forking import ForkingExecutor
from conjure.runs.lifecycle.abandoned_runs import mark_interrupted
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import request_end
from conjure.runs.lifecycle.submission import submit
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import CodeChoice, RunSpec, current_folder
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.runs.telemetry.logs import LogTail, lines
from conjure.sweeps.control import going_on
from conjure.sweeps.proposals import propose
from conjure.sweeps.pruning import runs_to_prune, trial_progress
from conjure.sweeps.request import SEED_PARAMETER, SweepRequest
from conjure.sweeps.settling import settle_trials
from conjure.sweeps.trials import Trial, history, is_infrastructure_failure

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.03, 1.0
_LOOK_FOR_DEAD_EVERY_S = 2.0
_SETTLE_FOR_S = 60.0  # a store may be away for long, and who follows the sweep waits
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0  # after a submission that a database or store was away for
_MOST_ATTEMPTS = 3  # runs of a trial, by one driver, that ended through no fault of its command
_MOST_FAILED_STARTS = 3  # in a row
_ENDED_BY_SOMEBODY = (EndReason.STOP_REQUESTED, EndReason.KILL_REQUESTED)
_FAILING_ALIKE = 3
_LAST_LINES = 5


class Driver:
    """One driver's life.

    Args of the constructor:
        number: The sweep.
        request: What was asked, secrets included.
        executor: Starts trials on this machine.
        retry_failed: Whether trials that failed before now get another run, as those that were stopped do.
    """

    def __init__(
        self,
        home: Home,
        number: int,
        request: SweepRequest,
        executor: ForkingExecutor,
        *,
        retry_failed: bool = False,
    ) -> None:
        self._home, self._number, self._request = home, number, request
        self._executor = executor
        self._retry_failed = retry_failed
        self._has_begun = False
        self._has_finished_before = False  # a trial as it should, under an earlier driver
        self._retries: set[int] = set()  # runs after which their trials get another one
        self._attempts_before: dict[int, int] = {}
        self._ended: list[TrialRow] = []
        self._all_settled = False  # when the sweep ended
        self._settle_until: float | None = None  # once its trials have ended
        self._pruned: set[int] = set()
        self._started = time.monotonic()
        self._looked_for_dead = 0.0
        self._pause_s, self._start_at = _FIRST_PAUSE_S, 0.0
        self._failed_starts = 0  # in a row, for an error of the system
        self._logged = ""

    def run(self) -> bool:
        """Drive the sweep to its end, or until somebody else ends it; whether all trials are settled then."""
        self._repeat(self._drive)
        return self._all_settled

    def settle_rest(self) -> None:
        """Write down what trials come to that end after the sweep, unless that goes on again.

        Where that fails for a minute after the last of them, they are left to `sweep resume`.
        """
        self._repeat(self._settle_late)

    def _drive(self, store: Database) -> bool | None:
        if self._is_running(store):
            return self._step(store)
        self._all_settled = all(row.settled for row in store.trials(self._number))
        return None

    def _is_running(self, store: Database) -> bool:
        return store.sweep(self._number).state is SweepState.RUNNING

    def _repeat(self, act: Callable[[Database], bool | None]) -> None:
        """Do something again and again: at once where there was something to do, and no more at None."""
        with open_store(self._home) as store:
            wait = 0.0
            while True:
                try:
                    acted = act(store)
                except StoreError:
                    acted = False  # a full disk or a server that is away, for one: it is tried again
                except OSError as error:
                    if not self._home.root.is_dir():
                        raise
                    self._log(error)
                    acted = False  # it may pass as well
                if acted is None:
                    return
                wait = 0.0 if acted else min(max(1.5 * wait, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
                self._executor.wait(wait)

    def _log(self, error: OSError) -> None:
        """Say in the sweep's log what went wrong, once: it may come again each second."""
        if str(error) != self._logged:
            with suppress(OSError):  # the log may be on the very disk that is full
                traceback.print_exc(limit=-1)
                self._logged = str(error)

    def _step(self, store: Database) -> bool:
        """Do what is to be done now; whether there was anything."""
        self._look_for_dead(store)
        rows = store.trials(self._number)
        if not self._has_begun:
            self._begin(store, rows)
            self._has_begun = True
        settled = {row.run: row for row in self._settle(store, rows)}
        rows = [settled.get(row.run, row) for row in rows]  # their values decide what comes next
        fault = self._fault(store) or self._time_is_up()
        if fault is not None:
            self._end(store, *fault)
            return True
        self._prune(store, rows)
        started = self._start_next(store, rows)
        if not started:
            trials = store.sweep(self._number).trials
            if self._is_done(store, rows):  # unless somebody has just added more trials
                words = self._saved_by_pruning(rows)
                store.end_sweep(self._number, SweepState.COMPLETE, words, trials=trials)
        return bool(settled) or started

    def _begin(self, store: Database, rows: list[TrialRow]) -> None:
        """Note what drivers before this one came to and left undone."""
        self._has_finished_before = any(map(self._is_as_wanted, rows))
        self._attempts_before = {row.trial: row.attempt - (row.facts.ending is None) for row in rows}
        self._retries = {row.run for row in rows if self._is_wanted_again(store, row)}

    def _is_as_wanted(self, row: TrialRow) -> bool:
        """Whether a trial finished and reported what it is to report."""
        return Trial.of(row).is_finished and (self._request.metric is None or row.step is not None)

    def _is_wanted_again(self, store: Database, row: TrialRow) -> bool:
        if row.facts.ending is None:  # a driver whose time is up does not wait for those that it stops
            return store.end_request(row.run) in (STOP, KILL)
        return _reason(row) in _ENDED_BY_SOMEBODY or (self._retry_failed and _has_failed(row))

    # ---- what has ended ------------------------------------------------------------------------------------

    def _look_for_dead(self, store: Database) -> None:
        """Close, now and then, the runs whose supervisors are gone: nobody else may be there to."""
        now = time.monotonic()
        if now - self._looked_for_dead >= _LOOK_FOR_DEAD_EVERY_S:
            self._looked_for_dead = now
            active = [row.run for row in store.trials(self._number) if row.facts.ending is None]
            mark_interrupted(store, map(store.get, active))

    def _settle(self, store: Database, rows: list[TrialRow]) -> list[TrialRow]:
        settled = []
        for row in settle_trials(self._home, store, self._number, self._request, rows):
            settled.append(row)
            if not is_infrastructure_failure(row):  # noted at once: the next one may fail to be settled
                self._ended.append(row)
        return settled

    def _settle_late(self, store: Database) -> bool | None:
        """Settle the trials of a sweep that has ended; None once all are, or it goes on again."""
        if self._is_running(store):
            return None
        self._look_for_dead(store)
        rows = store.trials(self._number)
        all_ended = all(row.facts.ending is not None for row in rows)
        if all_ended:
            self._settle_until = self._settle_until or time.monotonic() + _SETTLE_FOR_S
            if time.monotonic() >= self._settle_until:
                return None
        settled = self._settle(store, rows)
        return None if all_ended else bool(settled)

    def _fault(self, store: Database) -> tuple[SweepState, str] | None:
        """Why the sweep cannot come to anything, if so; it can where a trial has come to something before."""
        if self._has_finished_before:
            return None
        metric = self._request.metric
        for row in self._ended[:1] if metric is not None else ():
            if row.facts.status is RunStatus.COMPLETE and row.step is None:
                names = ", ".join(store.summaries(row.run)) or "none at all"
                return SweepState.FAILED, (
                    f"run {row.run} completed without reporting the metric {metric!r}; it reported {names}"
                )
        first = self._ended[:_FAILING_ALIKE]
        if len(first) == _FAILING_ALIKE and all(map(_has_failed, first)) and len({*map(_how, first)}) == 1:
            last = first[-1]
            log = "\n".join(self._last_lines(last.run))
            said = f"; the last lines of run {last.run}:\n{log}" if log else ""
            how = f"failed in the same way ({_how(last)})"
            return SweepState.FAILED, f"the first {_FAILING_ALIKE} trials {how}{said}"
        return None

    def _last_lines(self, run: int) -> list[str]:
        bring_streams(self._home, run)
        entries = LogTail(RunFolder.of(self._home, run).log).read()
        return [line.text for line in lines(entries)][-_LAST_LINES:]

    def _time_is_up(self) -> tuple[SweepState, str] | None:
        limit = self._request.time_limit_s
        if limit is None or time.monotonic() - self._started < limit:
            return None
        return SweepState.STOPPED, f"its time limit of {format_duration(limit)} was reached"

    def _end(self, store: Database, state: SweepState, message: str) -> None:
        """End the sweep and its trials; these first: should we be killed, the sweep can still be resumed."""
        self._stop_trials(store)
        store.end_sweep(self._number, state, message)
        while True:  # nobody else will see to what another driver has started meanwhile
            try:
                self._stop_trials(store)
            except StoreError:
                self._executor.wait(_LONGEST_WAIT_S)
            else:
                return

    def _stop_trials(self, store: Database) -> None:
        for run in going_on(store, self._number):
            request_end(store, run, STOP)

    # ---- what does badly -----------------------------------------------------------------------------------

    def _prune(self, store: Database, rows: list[TrialRow]) -> None:
        if self._request.prune is None or all(row.facts.ending is not None for row in rows):
            return
        for run in runs_to_prune(self._request, trial_progress(rows, store.rungs(self._number))):
            if run not in self._pruned:
                store.request_end(run, PRUNE)
                self._pruned.add(run)

    def _saved_by_pruning(self, rows: list[TrialRow]) -> str | None:
        pruned = [row.command_s for row in rows if _reason(row) is EndReason.PRUNED]
        whole = [row.command_s for row in rows if Trial.of(row).is_finished]
        times = [seconds for seconds in whole if seconds is not None]
        if self._request.prune is None or not times:
            return None
        mean = sum(times) / len(times)
        saved = sum(max(0.0, mean - (seconds or 0.0)) for seconds in pruned)
        share = saved / (saved + sum(times) + sum(seconds or 0.0 for seconds in pruned) or 1.0)
        return (
            f"pruning ended {plural(len(pruned), 'trial')} early and saved about {format_duration(saved)}"
            f" of running time ({share:.0%})"
        )

    # ---- what comes next -----------------------------------------------------------------------------------

    def _start_next(self, store: Database, rows: list[TrialRow]) -> bool:
        active = sum(row.facts.ending is None for row in rows)
        most = self._request.parallel if self._failed_starts < _MOST_FAILED_STARTS else 1
        if active >= most or time.monotonic() < self._start_at:
            return False
        claim = next(self._claims(store, rows), None)
        if claim is None:
            return False
        spec = self._spec(store, claim, rows)
        try:
            submit(self._home, spec, trial=claim, executor=self._executor if spec.on is None else None)
        except TrialRefusedError:
            return False  # another driver was quicker, or somebody stops the sweep
        except StoreError:
            self._put_off()
            raise
        except OSError as error:
            self._put_off()
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS and not active:  # what goes on is let finish
                self._end(store, SweepState.FAILED, f"no trial can be started: {_fault_of_start(error)}")
            raise
        except ConjureError as error:
            if store.trials(self._number) == rows:  # no run was made that could tell of it
                self._end(store, SweepState.FAILED, f"no trial can be started: {error}")
        self._pause_s, self._failed_starts = _FIRST_PAUSE_S, 0
        return True

    def _put_off(self) -> None:
        """Try again to start a trial; not at once, as each time may cost it one of its runs."""
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _claims(self, store: Database, rows: list[TrialRow]) -> Iterator[TrialClaim]:
        """What may be started: lost and stopped trials first, then new ones."""
        for row in rows:
            if self._gets_another_run(row):
                yield TrialClaim(self._number, row.trial, row.attempt + 1, row.params)
        taken = {row.trial: row for row in rows}
        for trial in range(store.sweep(self._number).trials):
            if trial not in taken:
                yield TrialClaim(self._number, trial, 1, self._params(store, trial, taken))

    def _gets_another_run(self, row: TrialRow) -> bool:
        if row.run in self._retries and _reason(row) not in (None, EndReason.COMPLETED, EndReason.PRUNED):
            return True
        attempts = row.attempt - self._attempts_before.get(row.trial, 0)
        return is_infrastructure_failure(row) and attempts < _MOST_ATTEMPTS

    def _params(self, store: Database, trial: int, taken: Mapping[int, TrialRow]) -> Mapping[str, str]:
        """The values of a new trial: those of its cell, if an earlier repetition has them already."""
        request = self._request
        cell, repetition = divmod(trial, request.seeds)
        for earlier in range(cell * request.seeds, trial):
            if earlier in taken:
                return {**taken[earlier].params, SEED_PARAMETER: str(repetition + 1)}
        if request.method != "tpe":
            return propose(request, trial)
        trials = [Trial.of(row) for row in taken.values()]
        return propose(request, trial, history(request, trials, cell, store.rungs(self._number)))

    def _spec(self, store: Database, claim: TrialClaim, rows: list[TrialRow]) -> RunSpec:
        """The run of a trial, on the code and data of those before it: no later change is tried."""
        spec = self._request.trial_spec(claim.params, claim.sweep)
        first = next((run for run in (store.get(row.run) for row in rows) if run.code is not None), None)
        if first is None or first.code is None:
            return spec
        spec = replace(spec, mounts=first.pinned_mounts)
        if spec.code.none or spec.code.run is not None or not first.code.tree:
            return spec
        return replace(spec, code=CodeChoice(run=first.number))

    def _is_done(self, store: Database, rows: list[TrialRow]) -> bool:
        going_on = any(row.facts.ending is None for row in rows)
        return not going_on and next(self._claims(store, rows), None) is None


def _fault_of_start(error: OSError) -> str:
    try:
        current_folder()
    except UsageError:  # the system's own words would name no folder
        return "the folder in which the sweep was started or resumed no longer exists"
    return str(error)


def _reason(row: TrialRow) -> EndReason | None:
    return None if row.facts.ending is None else row.facts.ending.reason


def _has_failed(row: TrialRow) -> bool:
    """Whether a trial's run ended in another way than it should, and not because somebody ended it."""
    failed = (RunStatus.FAILED, RunStatus.BUILD_FAILED, RunStatus.MOUNT_FAILED)
    return row.facts.status in failed


def _how(row: TrialRow) -> str:
    ending = row.facts.ending
    assert ending is not None
    if ending.exit_code is not None:
        return f"exit status {ending.exit_code}"
    return f"signal {ending.signal}" if ending.signal is not None else ending.message or str(ending.reason)
