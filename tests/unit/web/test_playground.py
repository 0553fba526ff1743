"""The playground, as far as no model is needed: what it lists, and what it refuses."""

import asyncio

import pytest

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import Ending, EndReason
from conjure.web.playground import Playground
from support.casting import add_run, finish
from support.models import tiny_checkpoint
from support.web_sites import visiting


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("web") / "home")
    with SqliteDatabase.open(home) as store:
        finish(store, add_run(store, "finetune", kind="finetune").number, Ending(EndReason.COMPLETED, 0))
        finish(store, add_run(store, "train").number, Ending(EndReason.COMPLETED, 0))
        store.set_link("mine", "runs/2")
    with visiting(home.root) as visitor:
        yield visitor


def test_it_lists_sprite_fine_tunes_and_links(visitor):
    page = visitor.page("/playground")
    for name in ("sprite", "runs/1", "mine"):
        assert f"<option>{name}</option>" in page
    assert "<option>runs/2</option>" not in page


@pytest.mark.parametrize("route", ["generate", "score"])
@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"},
        {"model": "gpt2", "prompt": "x"},
        {"model": "/etc", "prompt": "x"},
        {"model": 3, "prompt": "x"},
        {"model": "sprite", "prompt": "x" * 30_000},
        {"model": "sprite", "prompt": ["x"]},
        {"model": "sprite", "prompt": "x", "more": 1},
    ],
)
def test_what_it_does_not_take(visitor, route, body):
    assert visitor.post(f"/playground/{route}", body).status == 400


@pytest.mark.parametrize(
    "setting",
    [
        {"max_tokens": 0},
        {"max_tokens": 10**18},
        {"max_tokens": "5"},
        {"max_tokens": True},
        {"temperature": -1},
        {"temperature": 1e308},
        {"temperature": None},
        {"top_p": 2},
        {"top_k": -5},
        {"seed": -1},
        {"seed": 1.5},
    ],
)
def test_settings_out_of_bounds(visitor, setting):
    body = {"model": "sprite", "prompt": "x", **setting}
    answer = visitor.post("/playground/generate", body)
    assert answer.status == 400
    assert answer.error["param"] == next(iter(setting))


def test_a_link_that_was_moved_names_the_other_model(conjure_home):
    home = Home(conjure_home)
    with SqliteDatabase.open(home) as store:
        for seed in range(2):
            number = finish(store, add_run(store, "finetune").number, Ending(EndReason.COMPLETED, 0)).number
            tiny_checkpoint(RunFolder.of(home, number).outputs / "output", seed)

    async def written(playground, source):
        with SqliteDatabase.open(home) as store:
            if store.lookup_link("mine") is not None:
                store.remove_link("mine")
            store.set_link("mine", source)
        body = {"model": "mine", "prompt": "My dog", "max_tokens": 3, "temperature": 0}
        return [part async for part in await playground.generate(body, ["mine"])]

    async def both():
        playground = Playground()
        try:
            return [await written(playground, source) for source in ("runs/1", "runs/2", "runs/1")]
        finally:
            playground.end()

    first, second, again = asyncio.run(both())
    assert first == again
    assert first != second


def test_only_same_origin_json_is_read(visitor):
    answer = visitor.request("POST", "/playground/generate", b"{}", {"Content-Type": "text/plain"})
    assert answer.status == 415
    assert visitor.post("/playground/generate", {}, {"Origin": "http://evil.example"}).status == 403
