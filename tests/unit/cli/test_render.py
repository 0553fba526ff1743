"""Text on a terminal: it cannot act, whichever stream it goes to, and a line that is rewritten stays one."""

import io
import json
import sys

import click
import pytest

from conjure.cli.commands import stats
from conjure.cli.render import MarkedLines, StatusLine, note, visible, write_json, write_json_text
from conjure.cli.run_view import RunView
from conjure.cli.tables import Cell
from conjure.runs.lifecycle.log_following import Entered, Printed, Queued, Waiting
from conjure.runs.schema.status import RunStatus
from conjure.runs.telemetry.logs import STDOUT, LogEntry


@pytest.fixture
def stderr_only(monkeypatch):
    """Makes stderr alone a terminal, as under ``>log``; called in a test, whose streams are its own."""

    def patch():
        monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    return patch


def test_text_cannot_act_on_the_stream_that_is_a_terminal(stderr_only):
    stderr_only()
    assert visible("a\x1b[2Jb", err=True) == "a␛[2Jb"
    assert visible("a\x1b[2Jb") == "a\x1b[2Jb"


@pytest.mark.parametrize("character", [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))])
def test_text_cannot_change_the_direction_of_what_follows(stderr_only, character):
    stderr_only()
    assert visible(f"a{character}b", err=True) == "a\ufffdb"


def test_a_note_cannot_act(capsys):
    note("left out: a\x1b]0;b\x07\udcff")
    assert capsys.readouterr().err == "left out: a\\x1b]0;b\\x07\\xff\n"


def test_a_line_that_is_rewritten_fits_the_terminal(stderr_only, monkeypatch, capsys):
    stderr_only()
    monkeypatch.setenv("COLUMNS", "20")
    StatusLine().show("█" * 8 + " step 12 of 480 · loss 3.210 · 2,000 tokens/s")
    assert capsys.readouterr().err == "\r\x1b[2K████████ step 12 o…"


def test_what_a_run_waits_for_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    view = RunView(clock=iter(range(1, 99)).__next__)
    for event in (Entered(RunStatus.QUEUED), Queued("2 more cores of run 7 and run 8"), Waiting()):
        view.show(event)
    shown = click.unstyle(capsys.readouterr().out.rpartition("\r\x1b[2K")[2])
    assert len(shown) == 29
    assert shown.endswith("Queued… waiting for 2 more…")


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["50%\r", "\n"], b"50%\r\n"),
        (["50%\r", "\nnext\n"], b"50%\r\nnext\n"),
        (["50%\r", "90%\r", "\n"], b"90%\n"),
        (["1%\r50%", "\r99%\ndone\n"], b"99%\ndone\n"),
        (["50%\r", "caf\\xe9\n"], b"50%\rcaf\xe9\n"),
        (["50%\r"], b"50%\n"),
    ],
)
def test_a_file_gets_every_line_that_was_rewritten(pieces, shown, capsysbinary):
    view = RunView()
    for text in pieces:
        escaped = text if "\\x" in text else None
        view.show(Printed(LogEntry(0.0, STDOUT, text, escaped)))
    view.say("*", "end")
    assert capsysbinary.readouterr().out == shown + b"* end\n"


def test_facts_that_are_rewritten_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    facts = stats._cut([("run", "1"), ("gpu 0", Cell("NVIDIA H200, 90% busy", "green"))])
    assert facts == [("run", "1"), ("gpu 0", Cell("NVIDIA H200…", "green"))]


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_json_is_json_whatever_stdout_can_write(monkeypatch, encoding):
    value = {"text": "é 漢 😀"}
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    write_json(value)
    write_json_text(json.dumps(value, ensure_ascii=False) + "\n")
    stdout.flush()
    assert [json.loads(line) for line in written.getvalue().decode(encoding).splitlines()] == [value, value]


def test_what_is_told_of_a_run_cannot_act(stderr_only, capsys):
    stderr_only()
    MarkedLines(to_stderr=True).say("💥", "a\x1b[2Jb")
    assert capsys.readouterr().err == "💥 a␛[2Jb\n"


def test_a_progress_bar_that_goes_to_a_file_takes_little_memory(capfd):
    view = RunView(clock=iter(range(1, 99)).__next__)
    for percent in range(20_000):
        view.show(Printed(LogEntry(1, STDOUT, f"\r{percent}%")))
    assert len(view._bars[STDOUT]) < 10
    view.show(Printed(LogEntry(1, STDOUT, "\rdone\n\rx")))
    view.show(Printed(LogEntry(1, STDOUT, "." * (1 << 16))))
    assert view._bars == {}
    assert capfd.readouterr().out == f"done\n\rx{'.' * (1 << 16)}"
