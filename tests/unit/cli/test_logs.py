"""The last lines of a log, of a run that goes on or has ended."""

import json
from pathlib import Path

import pytest

from conjure.cli.commands import logs
from conjure.cli.main import _run
from conjure.runs.lifecycle.log_following import Ended, Printed, Waiting
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress
from conjure.runs.telemetry.logs import STDERR, STDOUT, LogEntry

PROGRESS = RunProgress({}, 0.0, Ending(EndReason.COMPLETED, 0))
ENDED = Ended(RunRecord(1, RunSpec(command=("true",), folder=Path("/")), PROGRESS))


def printed(text, stream=STDOUT):
    return Printed(LogEntry(0.0, stream, text))


@pytest.mark.parametrize(
    ("last", "events", "shown"),
    [
        ("1", [printed("a\nb"), ENDED], ["b"]),
        ("2", [printed("a\nb\nc"), ENDED], ["b", "c"]),
        ("2", [printed("a\nb\nc"), printed("x", STDERR), ENDED], ["c", "x"]),
        ("0", [printed("a\nb"), ENDED], []),
        ("2", [printed("a\nb\nc"), Waiting(), printed("d\n"), ENDED], ["b", "cd"]),
        ("1", [printed("a\nb\n"), Waiting(), printed("c\nd"), ENDED], ["b", "c", "d"]),
        ("0", [printed("a\n"), Waiting(), printed("b"), ENDED], ["b"]),
        ("9", [printed("a\n"), Waiting(), printed("b"), ENDED], ["a", "b"]),
    ],
)
def test_so_many_lines_are_shown_of_what_is_there_and_all_that_come(last, events, shown, monkeypatch, capsys):
    monkeypatch.setattr(logs, "follow", lambda *_: iter(events))
    assert _run(["logs", "1", "-f", "--json", "-n", last]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["text"] for line in lines] == shown
