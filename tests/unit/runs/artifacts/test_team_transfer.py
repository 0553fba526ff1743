"""Which folders of a team's home are those of attempts that another machine has followed."""

from dataclasses import replace

import pytest

from conjure.runs.artifacts.team_transfer import is_left_over
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunProgress
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run

STOPPED = Ending(EndReason.STOP_REQUESTED)


@pytest.mark.parametrize(
    ("entered", "ending", "is_so"),
    [
        ((RunStatus.REQUESTED, RunStatus.RUNNING), None, True),
        ((RunStatus.REQUESTED, RunStatus.RUNNING), STOPPED, True),
        ((RunStatus.REQUESTED,), None, True),
        ((RunStatus.REQUESTED,), STOPPED, False),  # the attempt that followed never came to its command
    ],
)
def test_a_folder_is_left_over_once_another_machine_has_the_run(store, entered, ending, is_so):
    facts = RunProgress(dict.fromkeys(entered, 1.0), None if ending is None else 2.0, ending)
    owner = Owner("another machine", "boot", 7, "then")
    record = replace(add_run(store, on="gpu"), facts=facts, owner=owner)
    assert record.status.is_final is (ending is not None)
    assert is_left_over(store.home, record) is is_so
