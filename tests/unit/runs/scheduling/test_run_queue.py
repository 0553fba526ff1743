"""The folder of requests, which whoever removes the last of them removes too."""

import pytest

from conjure.errors import ExecutorError
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.scheduling import run_queue
from conjure.runs.scheduling.run_queue import read_request, write_request
from conjure.runs.scheduling.scheduler_start import scheduler_is_missing
from support.casting import add_run


@pytest.fixture
def request_of_run(store):
    return request_of_this_process(store.home, add_run(store).spec, 0.0, "local")


def test_a_run_is_queued_while_another_one_removes_the_folder(home, request_of_run, monkeypatch):
    check, removed = run_queue._check_own, []

    def check_once_it_is_gone(folder):
        if not removed:
            folder.rmdir()
            removed.append(folder)
        check(folder)

    monkeypatch.setattr(run_queue, "_check_own", check_once_it_is_gone)
    write_request(home, 1, request_of_run)
    assert removed
    assert read_request(home, 1) is not None
    assert scheduler_is_missing(home)  # its supervisor may have found no room, in a home without a scheduler
    home.queued_request(1).unlink()
    home.queued_requests.rmdir()


def test_a_folder_that_others_can_use_is_refused(home, request_of_run):
    home.queued_requests.mkdir()
    home.queued_requests.chmod(0o777)
    with pytest.raises(ExecutorError, match="not a private folder of yours"):
        write_request(home, 1, request_of_run)
    home.queued_requests.rmdir()
