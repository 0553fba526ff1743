"""How an end is put into words."""

from dataclasses import replace
from pathlib import Path

import pytest

from conjure.cli import run_termination
from conjure.cli.run_view import details, ended, hints
from conjure.runs.database.base import STOP
from conjure.runs.schema.record import AttemptFacts, OutputFacts, RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress

RECOVER = "Its working folder is kept; save its outputs: conjure recover 3"
ATTEMPT = AttemptFacts(1, "host", 1.0, 2.0, "supervisor_died")


def record(*ending, kind="command", **given):
    spec = RunSpec(command=("true",), folder=Path("/"), kind=kind)
    return RunRecord(3, spec, RunProgress({}, 0.0, Ending(*ending, **given)))


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ((EndReason.COMPLETED, 0), "Run 3 complete"),
        ((EndReason.NONZERO_EXIT, 1), "Run 3 failed (exit status 1)"),
        ((EndReason.NONZERO_EXIT, 127, None, "x: command not found"), "Run 3 failed (exit status 127)"),
        ((EndReason.SIGNALLED, None, 11), "Run 3 failed (signal 11, Segmentation fault)"),
        ((EndReason.STOP_REQUESTED, None, 15), "Run 3 stopped"),
        ((EndReason.TIMEOUT, None, 15, "too long"), "Run 3 stopped (timeout: too long)"),
        ((EndReason.KILL_REQUESTED, None, 9), "Run 3 killed"),
        ((EndReason.MOUNT_FAILED, None, None, "no room"), "Run 3 ended as mount_failed (no room)"),
        ((EndReason.SUPERVISOR_DIED, None, None, "it died"), "Run 3 interrupted (it died)"),
    ],
)  # fmt: skip
def test_in_a_few_words(ending, words):
    assert ended(record(*ending)) == words
    assert details(record(*ending)) == []


def test_and_at_length_where_that_is_not_enough():
    message = "the environment could not be built: " + "because " * 20 + "\nof this"
    failed = record(EndReason.BUILD_FAILED, message=message)
    assert ended(failed) == "Run 3 ended as build_failed"
    assert details(failed) == message.splitlines()


def test_a_killed_fine_tune_says_how_to_go_on():
    look = "Log: conjure logs 3   Details: conjure info 3"
    assert hints(record(EndReason.SIGNALLED, None, 9, kind="finetune")) == [
        look,
        "To resume: conjure finetune --resume runs/3",
    ]
    assert hints(record(EndReason.NONZERO_EXIT, 143, kind="finetune")) == [look]
    assert hints(record(EndReason.SIGNALLED, None, 9)) == [look]


@pytest.fixture
def kept(home):
    """The kept working folder of an attempt at run 3."""
    attempt = RunFolder.of(home, 3).attempt(1)
    attempt.work.mkdir(parents=True)
    attempt.baseline.touch()
    return attempt.work


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("reason", [EndReason.STOP_REQUESTED, EndReason.KILL_REQUESTED])
@pytest.mark.parametrize(
    ("known", "can_be_saved"),
    [
        ({"attempts": (ATTEMPT,)}, True),
        ({"attempts": (replace(ATTEMPT, running_at=None),)}, False),
        ({"attempts": (ATTEMPT,), "outputs": OutputFacts(1, 5)}, False),
        ({}, False),
    ],
)
def test_a_run_that_ended_while_it_waited_for_its_next_attempt_says_how_to_save_its_files(
    reason, known, can_be_saved
):
    assert hints(replace(record(reason), **known)) == ([RECOVER] if can_be_saved else [])


def test_a_working_folder_that_was_pruned_is_not_said_to_be_kept(home, kept):
    stopped = replace(record(EndReason.STOP_REQUESTED), attempts=(ATTEMPT,))
    assert hints(stopped) == [RECOVER]
    kept.rmdir()
    assert hints(stopped) == []
    own = RunFolder.of(home, 3)
    own.work.mkdir()
    own.baseline.touch()
    assert hints(stopped) == [RECOVER]


@pytest.mark.usefixtures("kept")
def test_what_stopping_could_not_save_is_told(monkeypatch, capsys):
    stopped = replace(record(EndReason.STOP_REQUESTED), attempts=(ATTEMPT,))
    monkeypatch.setattr(run_termination, "end_runs", lambda *_, **__: [(stopped, True)])
    run_termination.show_ending([3], STOP, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "Run 3 stopped",
        RECOVER,
    ]
