"""The pages of sweeps, on one whose trials never ran."""

import re

import pytest

from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import TrialClaim
from conjure.runs.schema.status import Ending, EndReason
from conjure.sweeps import view
from conjure.sweeps.trials import Importance
from support.casting import OWNER, finish
from support.web_homes import sweep_home
from support.web_sites import visiting


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    home = sweep_home(tmp_path_factory.mktemp("web") / "home")
    with visiting(home.root) as visitor:
        yield visitor


def test_the_list(visitor):
    page = visitor.page("/sweeps")
    assert 'href="/sweeps/1"' in page
    assert "4 of 8" in page
    assert "0.2" in page


def test_a_sweep_with_its_pictures(visitor):
    page = visitor.page("/sweeps/1")
    pictures = re.findall(r"<svg class=\"sweep\".*?</svg>", page, re.DOTALL)
    assert len(pictures) == 3
    for number in (1, 2, 3):
        assert all(f'href="/runs/{number}"' in picture for picture in pictures)
    assert pictures[0].count("<circle") == 3
    assert 'class="way good"' in pictures[2]
    assert "<b>x</b>" not in page
    assert "conjure sweep resume 1" in page  # nobody drives it


def test_a_trial_has_the_colour_of_its_run(tmp_path):
    home = sweep_home(tmp_path)
    with SqliteDatabase.open(home) as store:
        spec, claim = store.get(1).spec, TrialClaim(1, 4, 1, {"lr": "0.1", "optimizer": "sgd"})
        number = store.create_run(
            spec, OWNER, lambda number: home.run_folder(number).mkdir(), trial=claim
        ).number
        finish(store, number, Ending(EndReason.STOP_REQUESTED, 0))
    with visiting(home.root) as visitor:
        assert '<span class="status caution">stopped</span>' in visitor.page("/sweeps/1")


def test_only_trials_that_count_are_in_the_pictures(tmp_path):
    home = sweep_home(tmp_path)
    with SqliteDatabase.open(home) as store:
        spec, claim = store.get(1).spec, TrialClaim(1, 4, 1, {"lr": "0.1", "optimizer": "sgd"})
        number = store.create_run(
            spec, OWNER, lambda number: home.run_folder(number).mkdir(), trial=claim
        ).number
        finish(store, number, Ending(EndReason.NONZERO_EXIT, 1))
        store.settle_trial(1, 4, number, 0.01, 10)
    with visiting(home.root) as visitor:
        page = visitor.page("/sweeps/1")
    pictures = re.findall(r"<svg class=\"sweep\".*?</svg>", page, re.DOTALL)
    assert len(pictures) == 3
    assert all(f'href="/runs/{number}"' not in picture for picture in pictures)
    assert f'href="/runs/{number}"' in page  # in the table


def test_importance_is_computed_once_for_a_page_and_never_for_news(visitor, monkeypatch):
    asked = []

    def importance(request, trials):
        asked.append(trials)
        return [Importance("lr", 0.5, 0.4, 0.6)]

    monkeypatch.setattr(view, "importance", importance)
    assert "40% to 60%" in visitor.page("/sweeps/1")
    visitor.get("/sweeps/1/live.json")
    assert len(asked) == 1


def test_changes_are_told_by_a_digest(visitor):
    told = visitor.get("/sweeps/1/live.json").json
    assert told == visitor.get("/sweeps/1/live.json").json
    assert told["active"]


def test_a_sweep_that_is_not_there(visitor):
    assert visitor.get("/sweeps/9").status == 404


def test_no_sweeps_say_what_to_type(tmp_path):
    with visiting(tmp_path) as visitor:
        assert "conjure sweep grid" in visitor.page("/sweeps")
