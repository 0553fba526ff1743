"""How often a scheduler tries to start a run before it gives it up."""

import signal
import time
from types import SimpleNamespace

import pytest

from conjure.runs.database.base import ResourceClaim
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import machine_id
from conjure.runs.lifecycle.scheduler_loop import _Scheduler, _wait_for_signal
from conjure.runs.schema.spec import ComputeRequest


@pytest.fixture
def scheduler(home, monkeypatch):
    """A scheduler that has run 1 in its queue and only notes whether it starts it or gives it up."""
    home.create().run_folder(1).mkdir(parents=True)
    made = _Scheduler(home, None)
    made.done = []
    made._requests[1] = SimpleNamespace(capacity=Capacity.of_this_machine(), program=made._program)
    monkeypatch.setattr(made, "_fork_supervisor", lambda *_: made.done.append("started"))
    monkeypatch.setattr(made, "_give_up", lambda *_: made.done.append("given up"))
    return made


def look(scheduler, retry_at):
    claim = ResourceClaim(
        1, ComputeRequest(cpus=0.1), machine_id(scheduler._home), in_queue=True, retry_at=retry_at
    )
    for number in scheduler._ready(SimpleNamespace(claims=lambda: [claim])):
        scheduler._start(number)


def test_one_whose_supervisor_never_comes_is_given_up(scheduler):
    for _ in range(6):
        look(scheduler, None)
    assert scheduler.done == ["started"] * 5 + ["given up"]


def test_each_attempt_of_a_run_that_is_retried_has_its_own_tries(scheduler):
    for attempt in range(20):
        look(scheduler, float(attempt))
    assert scheduler.done == ["started"] * 20


def test_where_nobody_can_wake_it_it_looks_often(monkeypatch):
    slept = []
    monkeypatch.delattr(signal, "sigtimedwait")  # as on a Mac
    monkeypatch.setattr(time, "sleep", slept.append)
    for longest_s in (5.0, 0.1):
        _wait_for_signal(longest_s)
    assert slept == [0.5, 0.1]
