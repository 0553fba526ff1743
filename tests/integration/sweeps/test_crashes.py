"""Drivers that are killed, or are not alone: no trial twice, none lost, never more at a time than wanted."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import ConflictError
from conjure.python_api import Client
from conjure.runs.database.sweep_rows import SweepState, TrialClaim, TrialRefusedError
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import submit
from conjure.sweeps.control import has_driver, resume_sweep, start_sweep
from conjure.sweeps.proposals import propose
from conjure.sweeps.space import Range
from support.casting import ending_runs, wait_until
from support.sweeps import grid, searched

pytestmark = pytest.mark.slow
CELLS = 9  # enough that some are left when the fourth was seen


@pytest.fixture
def home(conjure_home):
    with ending_runs(Home(conjure_home)) as client:
        yield client.home


def drivers(home: Home) -> list[int]:
    """The processes that drive sweeps of a home."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "comm").read_text().strip() == "conjure-sweep":
                variables = (folder / "environ").read_bytes().split(b"\0")
                if f"CONJURE_HOME={home.root}".encode() in variables:
                    found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill_driver(home: Home) -> None:
    for process in drivers(home):
        with suppress(ProcessLookupError):  # its second process ends with it
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not drivers(home), "the driver is gone")


def rows(home: Home, sweep: int):
    with open_store(home) as store:
        return store.trials(sweep)


def state(home: Home, sweep: int) -> SweepState:
    with open_store(home) as store:
        return store.sweep(sweep).state


def most_at_a_time(home: Home) -> int:
    """How many runs went on at the busiest moment, by the database's own times."""
    with open_store(home) as store:
        lives = [(min(run.facts.entered.values()), run.facts.ended_at) for run in store.select()]
    moments = sorted([(start, 1) for start, _ in lives] + [(end, -1) for _, end in lives if end is not None])
    at_a_time = most = 0
    for _, change in moments:
        at_a_time += change
        most = max(most, at_a_time)
    return most


def test_killed_again_and_again_every_cell_is_done_once(home):
    request = grid(CELLS, parallel=2)
    sweep = start_sweep(home, request)
    for done in (1, 3):
        wait_until(lambda done=done: len(rows(home, sweep)) > done, f"{done} trials were started")
        kill_driver(home)
        assert state(home, sweep) is SweepState.RUNNING
        resume_sweep(home, sweep)
    Client(home.root).get_sweep(sweep).wait(check=True)
    trials = rows(home, sweep)
    assert [(row.trial, dict(row.params)) for row in trials] == [
        (trial, propose(request, trial)) for trial in range(CELLS)
    ]
    assert all(row.facts.status == "complete" for row in trials)
    with open_store(home) as store:
        complete = [run.spec.params["x"] for run in store.select() if run.status == "complete"]
    assert sorted(complete) == [str(value) for value in range(CELLS)]
    assert most_at_a_time(home) <= 2


def test_two_drivers_at_once_share_the_work_and_never_exceed_it(home):
    """The second is started past the lock, as one on another machine of the same home would be."""
    sweep = start_sweep(home, grid(CELLS, parallel=2))
    script = """if True:
        import sys
        from conjure.core.home import Home
        from conjure.runs.executors.forking import ForkingExecutor
        from conjure.runs.lifecycle.open_store import open_store
        from conjure.runs.lifecycle.supervisor import become_supervisor
        from conjure.sweeps.driver import Driver
        from conjure.sweeps.request import SweepRequest

        home, number = Home.from_environment(), int(sys.argv[1])
        with open_store(home) as store:
            request = SweepRequest.from_dict(store.sweep(number).request)
        with ForkingExecutor(home, become_supervisor) as executor:
            Driver(home, number, request, executor).run()
    """
    second = subprocess.Popen([sys.executable, "-c", script, str(sweep)])
    Client(home.root).get_sweep(sweep).wait(check=True)
    assert second.wait(timeout=60) == 0
    assert [row.params["x"] for row in rows(home, sweep)] == [str(value) for value in range(CELLS)]
    with open_store(home) as store:
        assert len(store.select()) == CELLS
    assert sorted(int(folder.name) for folder in home.runs.iterdir()) == [run.number for run in _runs(home)]
    assert most_at_a_time(home) <= 2


def _runs(home):
    with open_store(home) as store:
        return sorted(store.select(), key=lambda run: run.number)


def test_a_driver_that_lives_keeps_another_away(home):
    sweep = start_sweep(home, grid(1, ("sh", "-c", "sleep 60; echo :x:")))
    wait_until(lambda: rows(home, sweep), "a trial was started")
    assert has_driver(home, sweep)
    with pytest.raises(ConflictError, match=f"sweep {sweep} is already running"):
        resume_sweep(home, sweep)
    Client(home.root).get_sweep(sweep).stop()


def test_trials_that_are_stopped_with_their_sweep_are_told_of(home):
    sweep = start_sweep(home, grid(1, ("sh", "-c", "sleep 60; echo :x:")))
    wait_until(lambda: rows(home, sweep), "a trial was started")
    Client(home.root).get_sweep(sweep).stop()
    told = list(Client(home.root).get_sweep(sweep))
    assert [(trial.trial, trial.status) for trial in told] == [(0, "stopped")]
    wait_until(lambda: not drivers(home), "its driver leaves")


def test_a_trial_whose_supervisor_was_killed_is_run_again_with_its_values(home):
    request = searched({"x": Range(0.0, 1.0)}, command=("sh", "-c", "echo :x:; sleep 1"), cells=1)
    sweep = start_sweep(home, request)
    wait_until(lambda: rows(home, sweep) and rows(home, sweep)[0].facts.status == "running", "it runs")
    first = rows(home, sweep)[0]
    with open_store(home) as store:
        owner = store.get(first.run).owner
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    Client(home.root).get_sweep(sweep).wait(check=True)
    again = rows(home, sweep)[0]
    assert (again.params, again.attempt) == (first.params, 2)
    assert again.run != first.run
    assert [run.status for run in _runs(home)] == ["interrupted", "complete"]


def test_a_claim_is_given_once_and_only_while_the_sweep_goes_on(home):
    request = grid(3)
    with open_store(home) as store:
        sweep = store.create_sweep(request.to_dict(), trials=3, parallel=1, rung_metric=None)
    spec = request.trial_spec({"x": "0"}, sweep)
    first = submit(home, spec, trial=TrialClaim(sweep, 0, 1, {"x": "0"})).record
    client = Client(home.root)
    client.get(first.number).wait(check=True)
    for claim in (TrialClaim(sweep, 0, 1, {"x": "0"}), TrialClaim(sweep, 0, 3, {"x": "0"})):
        with pytest.raises(TrialRefusedError, match="was started already"):
            submit(home, spec, trial=claim)
    with open_store(home) as store:
        store.end_sweep(sweep, SweepState.STOPPED)
    with pytest.raises(TrialRefusedError, match=f"sweep {sweep} is stopped"):
        submit(home, spec, trial=TrialClaim(sweep, 1, 1, {"x": "1"}))
    assert [run.number for run in client.runs()] == [first.number]
