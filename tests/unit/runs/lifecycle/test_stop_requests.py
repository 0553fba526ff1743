"""Whom a wish to end a run may wake or kill."""

import os
from types import SimpleNamespace

import pytest

from conjure.runs.database.base import KILL, STOP
from conjure.runs.host.process import find_process
from conjure.runs.lifecycle import stop_requests
from conjure.runs.lifecycle.abandoned_runs import process_name


@pytest.fixture
def signalled(monkeypatch):
    """The owner of run 7, as somebody else sees it, and what it is sent."""
    sent = []
    monkeypatch.setattr(stop_requests, "send_signal", lambda process, number: sent.append(number))

    def look_like(name):
        this = find_process(os.getpid())
        process = SimpleNamespace(name=name, parent=this.parent, is_stopped=False)
        monkeypatch.setattr(stop_requests, "find_supervisor", lambda owner: process)
        return sent

    return look_like


@pytest.mark.parametrize("what", [STOP, KILL])
def test_a_program_that_is_still_submitting_is_let_alone(signalled, what):
    sent = signalled("python")
    stop_requests._wake(SimpleNamespace(owner=None, number=7), what, must_die=True)
    assert sent == []


def test_a_supervisor_that_hears_nothing_is_killed(signalled):
    sent = signalled(process_name(7))
    stop_requests._wake(SimpleNamespace(owner=None, number=7), KILL, must_die=True)
    assert len(sent) == 1
