"""What is kept of the usage of runs that somebody looks at."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.core.home import Home
from conjure.runs.inspect.live_usage import Sample
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.web import usage_watch
from conjure.web.usage_watch import UsageWatch

QUEUE = Owner.queue("host", "boot")
SUPERVISOR, NEXT_SUPERVISOR = Owner("host", "boot", 7, "1"), Owner("host", "boot", 8, "2")


class FakeSampler:
    """Sees as many processes as its supervisor's number says, and none of a queue's."""

    def __init__(self, _home, record):
        self._owner = record.owner

    def sample(self):
        return Sample(1, 50.0, self._owner.pid, 0.0, 0.0) if self._owner.pid else None


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Looks at a run of this owner some seconds after the last look."""
    now = SimpleNamespace(seconds=1000.0)
    clock = SimpleNamespace(monotonic=lambda: now.seconds, time=lambda: now.seconds)
    monkeypatch.setattr(usage_watch, "time", clock)
    monkeypatch.setattr(usage_watch, "Sampler", FakeSampler)
    watch = UsageWatch(Home(tmp_path))

    def at(owner, number=1, *, later_s=1.0, after=0.0):
        now.seconds += later_s
        record = RunRecord(number, RunSpec(command=("true",), folder=Path("/code")), owner=owner)
        return watch.look_at(record, after)

    return at


def memory(samples):
    return [each[2] for each in samples]


def test_a_run_is_measured_under_whichever_supervisor_it_has(look):
    assert look(QUEUE) == []
    assert look(QUEUE) == []
    look(SUPERVISOR)
    assert memory(look(SUPERVISOR)) == [7]
    assert memory(look(NEXT_SUPERVISOR)) == [7]  # what was seen before is kept
    assert memory(look(NEXT_SUPERVISOR)) == [7, 8]


def test_only_what_is_new_is_told(look):
    look(SUPERVISOR)
    (first,) = look(SUPERVISOR)
    assert look(SUPERVISOR, after=first[0]) == [(first[0] + 1, 50.0, 7, None)]


def test_it_is_not_measured_more_than_once_a_second(look):
    look(SUPERVISOR)
    assert len(look(SUPERVISOR)) == 1
    assert len(look(SUPERVISOR, later_s=0.9)) == 1
    assert len(look(SUPERVISOR, later_s=0.1)) == 2


def test_the_run_looked_at_longest_ago_is_forgotten(look, monkeypatch):
    monkeypatch.setattr(usage_watch, "_RUNS", 1)
    look(SUPERVISOR)
    assert len(look(SUPERVISOR)) == 1
    look(SUPERVISOR, 2)
    assert look(SUPERVISOR) == []
