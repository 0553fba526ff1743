"""What a driver does while its database or a store is away; drivers that are killed are tried elsewhere."""

import contextlib
import errno
import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.errors import StoreError, UsageError
from conjure.runs.database.base import KILL, PRUNE, STOP
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import SweepState, TrialClaim, TrialRow
from conjure.runs.host.process import this_process
from conjure.runs.schema.record import CodeFacts, MountFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import CodeChoice, Mount
from conjure.runs.schema.status import Ending, EndReason, RunProgress
from conjure.sweeps import control, driver
from conjure.sweeps.control import SweepLock, resume_sweep, settler_lock, start_sweep
from conjure.sweeps.driver import Driver
from conjure.sweeps.proposals import PastCell
from conjure.sweeps.space import Choice, Range
from conjure.sweeps.view import look_at_sweep
from support.casting import add_run, finish
from support.sweeps import grid, searched


class Idle:
    """An executor that is asked for nothing but to wait."""

    def wait(self, seconds):
        pass


class Full(io.StringIO):
    """A file on a disk without room."""

    def write(self, _):
        raise OSError(errno.ENOSPC, "no room")


class AwayOnce:
    """Does what is asked the second time, or the one after `times`."""

    def __init__(self, act, error=None, times=1):
        self._act, self.asked, self._times = act, [], times
        self._error = error if error is not None else StoreError("it is away")

    def __call__(self, *given, **more):
        self.asked.append(given)
        if len(self.asked) <= self._times:
            raise self._error
        return self._act(*given, **more)


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home) as store:
        yield store


@pytest.fixture
def start(home, store, monkeypatch):
    """Makes a sweep and the driver of it."""
    monkeypatch.setattr(driver, "open_store", lambda _: contextlib.nullcontext(store))

    def start(request, **more):
        cells = request.trial_count
        number = store.create_sweep(request.to_dict(), trials=cells, parallel=1, rung_metric=None)
        return Driver(home, number, request, Idle(), **more)

    return start


@pytest.mark.parametrize("name", ["sweep", "trials"])
def test_a_database_that_is_away_for_a_moment_ends_no_driver(start, store, monkeypatch, name):
    monkeypatch.setattr(driver, "submit", lambda *_, **__: store.end_sweep(1, SweepState.STOPPED))
    driven = start(grid(1), retry_failed=True)
    away = AwayOnce(getattr(store, name))
    monkeypatch.setattr(store, name, away)
    driven.run()
    assert store.sweep(1).state is SweepState.STOPPED
    assert len(away.asked) > 1


def test_an_error_of_the_system_ends_no_driver_but_is_in_its_log_once(start, store, monkeypatch, capfd):
    driven = start(grid(1))
    away = AwayOnce(driven._settle, OSError("stale file handle"), times=2)
    monkeypatch.setattr(driven, "_settle", away)
    monkeypatch.setattr(driver, "submit", lambda *_, **__: store.end_sweep(1, SweepState.COMPLETE))
    driven.run()
    assert len(away.asked) == 3
    assert capfd.readouterr().err.count("stale file handle") == 1


def test_an_error_that_cannot_be_written_into_the_log_ends_no_driver(start, store, monkeypatch):
    driven = start(grid(1))
    monkeypatch.setattr(driven, "_settle", AwayOnce(driven._settle, OSError("no room")))
    monkeypatch.setattr(driver, "submit", lambda *_, **__: store.end_sweep(1, SweepState.COMPLETE))
    monkeypatch.setattr(sys, "stderr", Full())
    driven.run()
    assert store.sweep(1).state is SweepState.COMPLETE


def test_a_trial_whose_metrics_cannot_be_read_is_one_that_reported_none(start, store):
    driven, run = start(grid(2, metric="loss", direction="minimize")), add_run(store).number
    store.begin_attempt(run, this_process(store.home))
    assert store._take_trial(TrialClaim(1, 0, 1, {"x": "0"}), run)
    RunFolder.of(store.home, run).metrics.mkdir()
    finish(store, run, Ending(EndReason.COMPLETED, 0))
    assert driven._settle(store, store.trials(1))
    (row,) = store.trials(1)
    assert (row.settled, row.value, row.step) == (True, None, None)


def report(store, run, value, step=1):
    """Write a value of the metric as a trial's command does."""
    point = {"name": "loss", "step": step, "value": value, "time": 1.0}
    RunFolder.of(store.home, run).metrics.write_text(json.dumps(point) + "\n")


class TestATrialThatEndsAfterItsSweep:
    """As one that was being saved when the sweep was stopped."""

    @pytest.fixture
    def driven(self, start, store):
        driven, run = start(grid(3, metric="loss", direction="minimize")), add_run(store).number
        assert store._take_trial(TrialClaim(1, 0, 1, {"x": "0"}), run)
        report(store, run, 0.5)
        store.end_sweep(1, SweepState.STOPPED)
        return driven

    def end(self, store):
        finish(store, 1, Ending(EndReason.COMPLETED, 0))

    def test_is_settled_by_the_driver(self, driven, store, monkeypatch):
        driven.run()
        monkeypatch.setattr(driven._executor, "wait", lambda _: self.end(store))
        driven.settle_rest()
        assert [(row.settled, row.value) for row in store.trials(1)] == [(True, 0.5)]

    def test_is_left_to_another_driver_where_the_sweep_was_resumed(self, driven, store, monkeypatch):
        monkeypatch.setattr(driven._executor, "wait", lambda _: store.continue_sweep(1, trials=3))
        driven.settle_rest()
        assert not store.trials(1)[0].settled

    @pytest.mark.usefixtures("driven")
    def test_is_settled_by_who_stops_the_sweep_where_it_has_no_driver(self, home, store, monkeypatch):
        monkeypatch.setattr(control, "end_runs", lambda *_: self.end(store))
        control.stop_sweep(home, 1)
        assert store.trials(1)[0].value == 0.5

    def test_is_waited_for_while_somebody_settles_it(self, driven, home, store):
        self.end(store)
        assert look_at_sweep(home, store, 1).is_over  # nobody is there to
        lock = SweepLock.take_if_free(settler_lock(home, 1))
        assert not look_at_sweep(home, store, 1).is_over
        driven.settle_rest()
        assert look_at_sweep(home, store, 1).is_over
        lock.release()

    def test_is_given_up_where_a_store_stays_away(self, driven, store, monkeypatch):
        self.end(store)
        monkeypatch.setattr(driver, "_SETTLE_FOR_S", 0.0)
        monkeypatch.setattr(type(store), "settle_trial", unreachable)
        driven.settle_rest()
        assert not store.trials(1)[0].settled


def unreachable(*_):
    raise StoreError("the database is away")


def test_a_trial_that_was_settled_counts_though_the_next_one_cannot_be(start, store, monkeypatch):
    driven = start(grid(3, metric="loss", direction="minimize"))
    for trial, value in enumerate((0.5, 0.7)):
        run = add_run(store).number
        assert store._take_trial(TrialClaim(1, trial, 1, {"x": str(trial)}), run)
        report(store, run, value)
        finish(store, run, Ending(EndReason.COMPLETED, 0))
    first, settle = store.trials(1)[0].run, type(store).settle_trial

    def settle_first(self, sweep, trial, run, *rest):
        return settle(self, sweep, trial, run, *rest) if run == first else unreachable()

    monkeypatch.setattr(type(store), "settle_trial", settle_first)
    with pytest.raises(StoreError):
        driven._step(store)
    assert [row.run for row in driven._ended] == [first]


def test_what_has_just_ended_is_known_when_the_next_values_are_chosen(start, store, monkeypatch):
    space = {"x": Range(0.0, 9.0)}
    driven, run = start(searched(space, "tpe", metric="loss", direction="minimize")), add_run(store).number
    assert store._take_trial(TrialClaim(1, 0, 1, {"x": "2"}), run)
    report(store, run, 0.5)
    finish(store, run, Ending(EndReason.COMPLETED, 0))
    chosen_by = []
    monkeypatch.setattr(driver, "propose", lambda *given: chosen_by.append(given[2]) or {"x": "4"})
    monkeypatch.setattr(driver, "submit", lambda *_, **__: None)
    driven._step(store)
    assert chosen_by == [[PastCell({"x": "2"}, "complete", 0.5)]]


def test_a_sweep_that_gets_more_trials_as_it_ends_goes_on(start, store, monkeypatch):
    driven = start(grid(2))
    store.continue_sweep(1, trials=0)

    def is_done(*_):
        store.continue_sweep(1, trials=1)  # `conjure sweep resume --more 1` on another machine
        return True

    monkeypatch.setattr(driven, "_is_done", is_done)
    driven._step(store)
    assert store.sweep(1).state is SweepState.RUNNING


def test_no_more_trials_are_added_than_a_sweep_may_begin_with(home, store):
    request = searched({"x": Choice(("1", "2"))}, cells=1)
    number = store.create_sweep(request.to_dict(), trials=1, parallel=1, rung_metric=None)
    for more in (100_001, -1):
        with pytest.raises(UsageError, match=f"more must be from 1 to 100,000, not {more}"):
            resume_sweep(home, number, more=more)


@pytest.mark.parametrize(("is_shared", "is_abandoned"), [(True, False), (False, True)])
def test_a_sweep_whose_trials_go_on_may_be_driven_by_another_machine(
    home, store, monkeypatch, is_shared, is_abandoned
):
    number = store.create_sweep(grid(1).to_dict(), trials=1, parallel=1, rung_metric=None)
    monkeypatch.setattr(type(store), "is_shared", is_shared)
    assert look_at_sweep(home, store, number).is_abandoned
    run = add_run(store).number
    store.begin_attempt(run, this_process(home))
    assert store._take_trial(TrialClaim(number, 0, 1, {"x": "0"}), run)
    assert look_at_sweep(home, store, number).is_abandoned == is_abandoned
    finish(store, run, Ending(EndReason.COMPLETED, 0))
    assert look_at_sweep(home, store, number).is_abandoned


def test_a_wish_to_prune_that_could_not_be_written_is_written_later(start, store, monkeypatch):
    driven = start(grid(2, metric="loss", direction="minimize", prune="asha"))
    away = AwayOnce(lambda *_: True)
    monkeypatch.setattr(store, "request_end", away)
    monkeypatch.setattr(driver, "runs_to_prune", lambda *_: [7])
    rows = [TrialRow(0, 7, 1, {}, RunProgress())]
    with pytest.raises(StoreError):
        driven._prune(store, rows)
    driven._prune(store, rows)
    driven._prune(store, rows)
    assert away.asked == [(7, PRUNE)] * 2


@pytest.mark.parametrize("error", [StoreError("it is away"), OSError("no room")])
def test_a_submission_that_failed_for_the_moment_is_not_repeated_at_once(start, store, monkeypatch, error):
    driven = start(grid(1))
    away = AwayOnce(lambda *_, **__: None, error)
    monkeypatch.setattr(driver, "submit", away)
    with pytest.raises(type(error)):
        driven._start_next(store, [])
    assert not driven._start_next(store, [])
    assert len(away.asked) == 1
    assert 0.0 < driven._start_at - time.monotonic() <= driver._FIRST_PAUSE_S
    driven._start_at = 0.0
    assert driven._start_next(store, [])


def start_again(driven, store, rows=()):
    """Try to start a trial as often as a driver does before it gives up."""
    for _ in range(driver._MOST_FAILED_STARTS):
        driven._start_at = 0.0
        with contextlib.suppress(OSError):
            driven._start_next(store, list(rows))


def test_a_sweep_whose_folder_is_removed_ends_and_says_why(start, store, monkeypatch, tmp_path):
    driven = start(grid(1))
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    monkeypatch.setattr(driver, "submit", lambda *_, **__: Path.cwd())
    start_again(driven, store)
    sweep = store.sweep(1)
    why = "no trial can be started: the folder in which the sweep was started or resumed no longer exists"
    assert (sweep.state, sweep.message) == (SweepState.FAILED, why)


def test_a_submission_that_fails_now_and_then_ends_no_sweep(start, store, monkeypatch):
    driven, most = start(grid(1)), driver._MOST_FAILED_STARTS
    for _ in range(2):
        monkeypatch.setattr(driver, "submit", AwayOnce(lambda *_, **__: None, OSError("no room"), most - 1))
        start_again(driven, store)
    assert store.sweep(1).state is SweepState.RUNNING


def test_trials_that_go_on_are_let_finish_where_no_more_can_be_started(start, store, monkeypatch):
    driven = start(replace(grid(3), parallel=2))
    away = AwayOnce(None, OSError("no room"), times=9)
    monkeypatch.setattr(driver, "submit", away)
    monkeypatch.setattr(driven, "_spec", lambda *_: driven._request.spec)
    start_again(driven, store, [TrialRow(0, 7, 1, {"x": "0"}, RunProgress())])
    start_again(driven, store, [TrialRow(0, 7, 1, {"x": "0"}, RunProgress())])
    assert (store.sweep(1).state, len(away.asked)) == (SweepState.RUNNING, driver._MOST_FAILED_STARTS)
    start_again(driven, store, [ended(0, EndReason.COMPLETED)])
    assert store.sweep(1).message == "no trial can be started: no room"


def after(reason):
    exit_codes = {EndReason.COMPLETED: 0, EndReason.NONZERO_EXIT: 1}
    return RunProgress(ending=Ending(reason, exit_codes.get(reason)))


def ended(trial, reason, attempt=1):
    run = 100 + 10 * trial + attempt
    return TrialRow(trial, run, attempt, {"x": str(trial)}, after(reason), settled=True)


@pytest.mark.parametrize(
    ("reason", "attempt", "again"),
    [
        (EndReason.STOP_REQUESTED, 1, True),
        (EndReason.KILL_REQUESTED, 1, True),
        (EndReason.MACHINE_RESTARTED, 1, True),
        (EndReason.SUPERVISOR_DIED, driver._MOST_ATTEMPTS, True),
        (EndReason.NONZERO_EXIT, 1, False),
        (EndReason.PRUNED, 1, False),
        (EndReason.TIMEOUT, 1, False),
        (EndReason.STOP_CONDITION, 1, False),
        (EndReason.COMPLETED, 1, False),
    ],
)
def test_a_resumed_sweep_runs_trials_again_that_were_cut_off(start, store, reason, attempt, again):
    driven, rows = start(grid(1)), [ended(0, reason, attempt)]
    driven._begin(store, rows)
    assert [(claim.trial, claim.attempt) for claim in driven._claims(store, rows)] == (
        [(0, attempt + 1)] if again else []
    )
    assert driven._is_done(store, rows) is not again


@pytest.mark.parametrize("metric", [None, "loss"])
def test_a_resumed_sweep_that_has_come_to_something_is_not_ended_by_its_next_trials(start, store, metric):
    request = grid(9, metric=metric, direction="minimize" if metric else None)
    failed = [ended(trial, EndReason.NONZERO_EXIT) for trial in (1, 2, 3)]
    unreported = [ended(4, EndReason.COMPLETED)]
    driven = start(request)
    driven._begin(store, [replace(ended(0, EndReason.COMPLETED), step=7), *failed, *unreported])
    for newest in (failed, unreported):
        driven._ended = newest
        assert driven._fault(store) is None
    driven._begin(store, [*failed, *(unreported if metric else [])])
    assert not driven._has_finished_before


def test_who_ends_a_trial_of_a_sweep_that_goes_on_ends_it_for_good(start, store):
    driven = start(grid(2))
    driven._begin(store, [ended(0, EndReason.STOP_REQUESTED)])
    rows = [ended(0, EndReason.STOP_REQUESTED, 2), ended(1, EndReason.KILL_REQUESTED)]
    assert driven._is_done(store, rows)


def test_each_driver_runs_a_trial_that_is_interrupted_as_often(start, store):
    driven, most = start(grid(1)), driver._MOST_ATTEMPTS
    driven._begin(store, [ended(0, EndReason.SUPERVISOR_DIED, most)])
    lost = [[ended(0, EndReason.SUPERVISOR_DIED, attempt)] for attempt in range(most, 2 * most + 1)]
    assert [driven._is_done(store, rows) for rows in lost] == [False] * most + [True]


@pytest.mark.parametrize("asked", [STOP, KILL, PRUNE])
@pytest.mark.parametrize("reason", [EndReason.STOP_REQUESTED, EndReason.COMPLETED])
def test_a_trial_that_is_still_being_stopped_runs_again_unless_it_is_finished(start, store, asked, reason):
    """As after a time limit: its driver does not wait for the trials that it stops."""
    driven, run = start(grid(1)), add_run(store).number
    store.request_end(run, asked)
    driven._begin(store, [TrialRow(0, run, 1, {}, RunProgress())])
    rows = [TrialRow(0, run, 1, {}, after(reason))]
    assert driven._is_done(store, rows) is (asked == PRUNE or reason is EndReason.COMPLETED)


def mounting(request, *mounts):
    return replace(request, spec=replace(request.spec, mounts=mounts))


@pytest.mark.parametrize("tree", ["", "0123"])
def test_all_trials_are_given_what_the_first_one_was(start, store, tree):
    request = mounting(grid(2), Mount("uploads/data", "data", read_only=True))
    driven = start(replace(request, spec=replace(request.spec, code=CodeChoice(none=not tree))))
    unready, first = add_run(store).number, add_run(store).number
    facts = MountFacts("uploads/data", "data", read_only=True, source="uploads/data@1")
    store.set_facts(first, code=CodeFacts(tree), mounts=(facts,))
    rows = [TrialRow(trial, run, 1, {}, RunProgress()) for trial, run in enumerate([unready, first])]
    spec = driven._spec(store, TrialClaim(1, 2, 1, {"x": "2"}), rows)
    assert spec.mounts == (Mount("uploads/data@1", "data", read_only=True),)
    assert spec.code == (CodeChoice(run=first) if tree else CodeChoice(none=True))


def test_a_sweep_finds_local_files_wherever_it_is_resumed(home, store, tmp_path, monkeypatch):
    monkeypatch.setattr(control, "start_driver", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    number = start_sweep(home, mounting(grid(1), Mount("./data.csv", "data.csv")))
    (mount,) = store.sweep(number).request["spec"]["mounts"]
    assert mount["resource"] == str(tmp_path / "data.csv")


class TestTheEndOfASweep:
    @pytest.fixture
    def going_on(self, start, store):
        """A driver, and a run of it that goes on."""
        return start(grid(3)), self.begin(store, 0)

    def begin(self, store, trial):
        run = add_run(store).number
        store.begin_attempt(run, this_process(store.home))
        assert store._take_trial(TrialClaim(1, trial, 1, {"x": str(trial)}), run)
        return run

    def test_is_begun_again_where_a_trial_could_not_be_stopped(self, going_on, store, monkeypatch):
        driven, run = going_on
        monkeypatch.setattr(driver, "request_end", AwayOnce(driver.request_end))
        with pytest.raises(StoreError):
            driven._end(store, SweepState.STOPPED, "why")
        assert store.sweep(1).state is SweepState.RUNNING
        driven._end(store, SweepState.STOPPED, "why")
        assert (store.sweep(1).state, store.end_request(run)) == (SweepState.STOPPED, STOP)

    def test_stops_a_trial_that_another_driver_started_meanwhile(self, going_on, store, monkeypatch):
        driven, _ = going_on
        end_sweep, late = store.end_sweep, []

        def end(*given):
            late.append(self.begin(store, 1))
            monkeypatch.setattr(store, "trials", AwayOnce(store.trials))
            return end_sweep(*given)

        monkeypatch.setattr(store, "end_sweep", end)
        driven._end(store, SweepState.STOPPED, "why")
        assert store.end_request(late[0]) == STOP
