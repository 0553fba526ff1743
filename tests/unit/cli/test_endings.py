"""How an end is put into words."""

from pathlib import Path

import pytest

from conjure.cli.run_view import details, ended, hints
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress


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
