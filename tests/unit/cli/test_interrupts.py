"""What ^C does to commands that follow a run."""

import signal
from collections.abc import Iterator

import pytest

from conjure.cli import run_termination, run_view
from conjure.cli.commands import jupyter, stats, sweep, wait
from conjure.cli.main import _run
from conjure.core.stop_signals import stopping_in_order
from conjure.runs.database.base import KILL, STOP
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.lifecycle.log_following import Ended, Event, Waiting
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.sweeps import grid


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


def test_a_run_that_has_nothing_to_save_does_not_say_so(store, monkeypatch, capsys):
    number = add_run(store, kind="score").number
    advance(store, number, RunStatus.RUNNING)

    def events(_home, _number) -> Iterator[Event]:
        signal.raise_signal(signal.SIGINT)
        yield Waiting()
        store.end_run(number, Ending(EndReason.KILL_REQUESTED))
        yield Ended(store.get(number))

    monkeypatch.setattr(run_view, "follow", events)
    run_view.wait_silently(store.home, number, interrupt_stops=True)
    assert capsys.readouterr().err.splitlines() == ["✨ Stopping; press ^C again to abort"]


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


def interrupted(*_arguments, **_options):
    raise KeyboardInterrupt


def test_who_waits_for_a_run_is_told_that_it_continues(store, monkeypatch, capsys):
    add_run(store)
    monkeypatch.setattr(wait, "follow", interrupted)
    assert _run(["wait", "1"]) == 130
    assert capsys.readouterr().err == "Run 1 continues; view its log: conjure logs -f 1\n"


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_who_ends_runs_is_told_what_has_become_of_each(store, monkeypatch, capsys, verb):
    for _ in range(3):
        add_run(store)
    finish(store, 1, Ending(EndReason.COMPLETED, 0))

    def asked_one(_home, _numbers, what, **_options):
        store.request_end(2, what)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_termination, "end_runs", asked_one)
    assert _run([verb, "1", "2", "3"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "Run 1 complete",
        "Run 2 was asked to end, and has not ended yet",
        "Run 3 continues; it was not asked to end",
    ]


def test_who_stops_a_sweep_is_told_what_has_become_of_it(store, monkeypatch, capsys):
    store.create_sweep(grid(2).to_dict(), trials=2, parallel=1, rung_metric=None)
    monkeypatch.setattr(sweep, "stop_sweep", interrupted)
    assert _run(["sweep", "stop", "1"]) == 130
    assert capsys.readouterr().err == "Sweep 1: running; no run of it is active\n"
    monkeypatch.setattr(sweep, "going_on", lambda *_: [7, 8])
    assert _run(["sweep", "stop", "1"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "Sweep 1: running; runs that have not ended: 7, 8",
        "To wait for them: conjure sweep stop 1",
    ]


def test_who_waits_for_jupyterlab_is_told_that_it_continues(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jupyter, "follow_submission", lambda *_, **__: 0)
    monkeypatch.setattr(jupyter._Server, "announce", interrupted)
    assert _run(["jupyter", "-b"]) == 130
    assert "continues in the background; save its files and end it: conjure stop " in capsys.readouterr().err
