"""What ^C does to commands that follow a run."""

import signal
from collections.abc import Iterator

import pytest

from conjure.cli import run_view
from conjure.cli.commands import stats
from conjure.cli.main import _run
from conjure.core.stop_signals import stopping_in_order
from conjure.runs.database.base import KILL, STOP
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.lifecycle.log_following import Ended, Event, Waiting
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance


@pytest.fixture(autouse=True)
def handler():
    """What handled a ^C before is put back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def store(home):
    with SqliteDatabase.open(home.create()) as store:
        yield store


def test_with_json_the_first_interrupt_stops_and_the_second_kills(store, monkeypatch, capsys):
    number = add_run(store).number
    advance(store, number, RunStatus.RUNNING)
    requests = []

    def events(_home, _number) -> Iterator[Event]:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            yield Waiting()
            requests.append(store.end_request(number))
        store.end_run(number, Ending(EndReason.KILL_REQUESTED))
        yield Ended(store.get(number))

    monkeypatch.setattr(run_view, "follow", events)
    record = run_view.wait_silently(store.home, number, interrupt_stops=True)
    assert (record.status, requests) == (RunStatus.KILLED, [STOP, KILL])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "✨ Stopping and saving; press ^C again to abort",
        "✨ Aborting; `conjure recover 1` can save its files",
    ]


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_view._Interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with stopping_in_order(quiet=True) as came:
        signal.raise_signal(signal.SIGINT)
        assert came == []


def test_following_the_use_of_a_run_ends_as_interrupted(store, monkeypatch):
    def interrupted(*_arguments, **_options) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(stats, "_looks", interrupted)
    assert _run(["stats", "-f", str(add_run(store).number)]) == 130
