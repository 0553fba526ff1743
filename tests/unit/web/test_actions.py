"""What pages may do, and that they may not unless they were told so."""

import pytest

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance, finish
from support.web_sites import visiting


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        for _ in range(2):
            finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0))
        advance(store, add_run(store, "sleep 99").number, RunStatus.RUNNING)
    return home


def record(home, number):
    with SqliteDatabase.open(home) as store:
        return store.get(number)


def test_pages_only_show_unless_they_may_act(home):
    with visiting(home.root) as visitor:
        answer = visitor.post("/actions", {"action": "archive", "runs": [1]})
        assert answer.status == 403
        assert "--allow-actions" in answer.error["message"]
        assert "data-act=" not in visitor.page("/runs")
    assert record(home, 1).archived_at is None


def test_archive_and_label_in_bulk(home):
    with visiting(home.root, allow_actions=True) as visitor:
        assert visitor.post("/actions", {"action": "archive", "runs": [1, 2]}).json == {"runs": [1, 2]}
        assert visitor.post("/actions", {"action": "label", "runs": [1, 3], "label": "best"}).status == 200
        assert visitor.post("/actions", {"action": "unarchive", "runs": [2]}).status == 200
        assert visitor.post("/actions", {"action": "unlabel", "runs": [3], "label": "best"}).status == 200
        assert "data-act=" in visitor.page("/runs")
    assert record(home, 1).archived_at is not None
    assert record(home, 2).archived_at is None
    assert record(home, 1).labels == ("best",)
    assert record(home, 3).labels == ()


def test_stop_asks_the_supervisor(home):
    with visiting(home.root, allow_actions=True) as visitor:
        assert visitor.post("/actions", {"action": "stop", "runs": [3, 1]}).json == {"runs": [3]}
    assert record(home, 3).end_request == "stop"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete", "runs": [1]},
        {"action": "stop", "runs": []},
        {"action": "stop", "runs": ["1"]},
        {"action": "stop", "runs": [True]},
        {"action": "stop", "runs": [10**30]},
        {"action": "stop", "runs": [1], "more": 1},
        {"action": "label", "runs": [1]},
        {"action": "label", "runs": [1], "label": "a\nb"},
        {"action": "label", "runs": [1], "label": "x" * 81},
        {"action": "rerun", "runs": [1, 2]},
    ],
)
def test_what_cannot_be_done_is_said(home, body):
    with visiting(home.root, allow_actions=True) as visitor:
        assert visitor.post("/actions", body).status == 400


def test_a_run_that_is_not_there(home):
    with visiting(home.root, allow_actions=True) as visitor:
        assert visitor.post("/actions", {"action": "stop", "runs": [99]}).status == 404


def test_only_json_is_read(home):
    with visiting(home.root, allow_actions=True) as visitor:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            body = b'{"action": "archive", "runs": [1]}'
            assert visitor.request("POST", "/actions", body, {"Content-Type": kind}).status == 415
        assert visitor.get("/actions").status == 405


def test_what_only_looks_cannot_write(home):
    from conjure.errors import StoreError
    from conjure.web.site import Site

    with Site(home).store() as store, pytest.raises(StoreError):
        store.set_archived(1, archived=True)
