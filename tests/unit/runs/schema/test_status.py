import signal

import pytest

from conjure.runs.schema.status import (
    MOVES,
    PHASES,
    STATUS_OF_REASON,
    Ending,
    EndReason,
    IllegalMoveError,
    RunProgress,
    RunStatus,
    check_move,
    check_retry,
    exit_status,
)


def test_every_reason_leads_to_a_final_status():
    assert set(STATUS_OF_REASON) == set(EndReason)
    assert all(reason.status.is_final for reason in EndReason)


def test_every_final_status_can_be_reached():
    assert {reason.status for reason in EndReason} == {status for status in RunStatus if status.is_final}
    reachable = set().union(*MOVES.values())
    assert reachable == set(RunStatus) - {RunStatus.REQUESTED}


def test_final_statuses_lead_nowhere():
    assert all(not MOVES[status] for status in RunStatus if status.is_final)


def test_phases_only_go_forward_one_at_a_time():
    for place, phase in enumerate(PHASES):
        assert MOVES[phase] & set(PHASES) == set(PHASES[place + 1 : place + 2])


@pytest.mark.parametrize("phase", PHASES)
def test_any_phase_may_be_killed_or_interrupted(phase):
    check_move(phase, RunStatus.KILLED)
    check_move(phase, RunStatus.INTERRUPTED)


@pytest.mark.parametrize("phase", PHASES[:-1])
def test_only_a_saved_run_is_complete(phase):
    with pytest.raises(IllegalMoveError, match=f"from {phase} to complete"):
        check_move(phase, RunStatus.COMPLETE)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_an_attempt_can_be_followed_by_another_from_wherever_it_ended(phase):
    check_retry(phase)


@pytest.mark.parametrize("status", [RunStatus.REQUESTED, *(s for s in RunStatus if s.is_final)])
def test_what_has_not_begun_or_has_ended_is_not_tried_again(status):
    with pytest.raises(IllegalMoveError, match=f"that is {status} cannot be queued"):
        check_retry(status)


def test_complete_means_exit_status_0():
    with pytest.raises(IllegalMoveError):
        Ending(EndReason.COMPLETED, exit_code=1)
    with pytest.raises(IllegalMoveError):
        Ending(EndReason.COMPLETED)
    with pytest.raises(IllegalMoveError):
        Ending(EndReason.COMPLETED, exit_code=0, signal=9)


def test_failing_means_a_code_or_a_signal():
    with pytest.raises(IllegalMoveError):
        Ending(EndReason.NONZERO_EXIT, exit_code=0)
    with pytest.raises(IllegalMoveError):
        Ending(EndReason.SIGNALLED)


def test_the_status_follows_from_phases_not_from_their_times():
    # The clock was set back by a day while the run was building.
    facts = RunProgress(
        {RunStatus.REQUESTED: 90_000.0, RunStatus.QUEUED: 90_001.0, RunStatus.BUILDING: 3_600.0}
    )
    assert facts.status is RunStatus.BUILDING
    ended = RunProgress(facts.entered, 10.0, Ending(EndReason.BUILD_FAILED))
    assert ended.status is RunStatus.BUILD_FAILED
    assert ended.phase is RunStatus.BUILDING


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(EndReason.COMPLETED, 0), 0),
        (Ending(EndReason.NONZERO_EXIT, 66), 66),
        (Ending(EndReason.SIGNALLED, signal=signal.SIGSEGV), 128 + 11),
        (Ending(EndReason.STOP_REQUESTED, signal=signal.SIGTERM), 128 + 15),
        (Ending(EndReason.STOP_REQUESTED, exit_code=0), 0),
        (Ending(EndReason.TIMEOUT, exit_code=3), 3),
        (Ending(EndReason.STOP_REQUESTED), 128 + 15),
        (Ending(EndReason.KILL_REQUESTED), 128 + 9),
        (Ending(EndReason.KILL_REQUESTED, signal=signal.SIGKILL), 128 + 9),
        (Ending(EndReason.DEPENDENCY_FAILED), 125),
        (Ending(EndReason.CODE_FAILED), 125),
        (Ending(EndReason.BUILD_FAILED), 125),
        (Ending(EndReason.MOUNT_FAILED), 125),
        (Ending(EndReason.SUPERVISOR_DIED), 125),
        (Ending(EndReason.SAVE_FAILED, exit_code=0), 125),
        (Ending(EndReason.SAVE_FAILED, exit_code=4), 4),
    ],
)
def test_exit_statuses(ending, expected):
    assert exit_status(ending) == expected
