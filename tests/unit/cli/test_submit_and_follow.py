"""What is told of a run that could not be submitted."""

import errno

import pytest

from conjure.cli.submit_and_follow import follow_submission


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_whose_submission_failed_is_not_said_to_go_on(home, as_json):
    def make(announce):
        announce(1)
        raise OSError(errno.EIO, "Input/output error", "data.csv")

    with pytest.raises(OSError, match="Input/output error"):
        follow_submission(home, make, background=False, as_json=as_json)
