"""Curves of several runs over each other, in a real browser."""

import itertools
import math
import re
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import Ending, EndReason
from conjure.runs.telemetry import metric_column_cache
from support.casting import add_run, finish, wait_until
from support.web_homes import log_points, loss_curve
from support.web_sites import visiting


def finished_runs(root, *values):
    """A home with a run for each list of values."""
    home = Home(root)
    with SqliteDatabase.open(home) as store:
        for place, each in enumerate(values):
            number = add_run(store, f"python train.py --seed {place}", labels=(f"try {place}",)).number
            log_points(home, number, "loss", each)
            store.refresh_summaries(number)
            finish(store, number, Ending(EndReason.COMPLETED, 0))
    return home


@pytest.fixture
def compared(window, tmp_path):
    """Opens a comparison of runs with some values each."""

    def opened(*values, query="", **options):
        finished_runs(tmp_path, *values)
        visitor = site.enter_context(visiting(tmp_path))
        made = window(visitor, **options)
        made.open(f"/compare?runs={','.join(map(str, range(1, len(values) + 1)))}{query}")
        expect(made.page.locator("figure canvas")).to_be_visible()
        return made

    with ExitStack() as site:
        yield opened


def readout(page):
    return page.locator("figure .readout")


def test_curves_are_above_the_fold_below_their_names(compared):
    opened = compared([3.0, 2.0], [4.0, 1.0], viewport={"width": 1440, "height": 900})
    legend = opened.page.get_by_role("list", name="Compared runs")
    expect(legend.get_by_role("listitem")).to_have_text(
        [re.compile(r"run 1\s+try 0\s+python train.py --seed 0"), re.compile(r"run 2\s+try 1\s+python")]
    )
    figure = opened.page.locator("figure").first.bounding_box()
    assert figure["y"] + figure["height"] < 900
    expect(opened.page.get_by_role("heading", name="What differs")).to_be_visible()


def test_each_curve_is_read_at_its_own_places(compared):
    page = compared([3.0, 2.0, 1.5, 1.25], [5.0, 4.0]).page
    page.locator("figure .plot").focus()
    page.keyboard.press("Home")
    expect(readout(page)).to_contain_text("step 0 run 1 3 run 2 5")
    page.keyboard.press("End")
    expect(readout(page)).to_contain_text("step 3 run 1 1.25 run 2 4")  # the last that it has
    page.keyboard.press("t")
    rows = page.locator(".values tbody tr")
    expect(rows).to_have_text(["035", "124", "21.5", "31.25"])


def test_runs_that_have_nothing_but_gaps(compared):
    page = compared(["nan", "nan"], ["inf", "nan"]).page
    expect(page.locator("figure figcaption")).to_have_text("4 points · 4 not finite (gaps)")
    page.get_by_label("log y").check()
    page.locator("figure .plot").focus()
    page.keyboard.press("End")
    expect(readout(page)).to_contain_text("run 2 not finite")
    page.get_by_label("log y").uncheck()  # the curves are drawn anew, and what is read stays
    expect(page.locator("figure figcaption")).to_have_text("4 points · 4 not finite (gaps)")
    expect(readout(page)).to_contain_text("run 2 not finite")


def test_gaps_log_axes_and_smoothing_of_several_runs(compared):
    page = compared(["nan", 2.0, "nan", 4.0], [0.0, -1.0, 3.0], loss_curve(300, 1)).page
    caption = page.locator("figure figcaption")
    expect(caption).to_contain_text("2 not finite (gaps)")
    page.get_by_label("log y").check()
    expect(caption).to_contain_text("at or below 0, not shown on a log axis")
    page.get_by_label("log x").check()
    page.get_by_label("Smoothing").fill("0.9")
    page.get_by_label("Smoothing").dispatch_event("change")
    expect(page).to_have_url(re.compile("smooth=0.9"))
    page.locator("figure .plot").focus()
    page.keyboard.press("t")
    expect(page.locator(".values thead")).to_contain_text("run 3 smoothed")


def test_a_zoom_is_seen_before_its_details_come(compared):
    page = compared(loss_curve(5000, 1), loss_curve(5000, 2)).page
    plot, caption = page.locator("figure .plot"), page.locator("figure figcaption")
    expect(caption).to_contain_text("of 10,000 points")
    held = []
    page.route("**/curves.bin*", lambda route: held.append(route))
    picture = "canvas => canvas.toDataURL()"
    before = plot.locator("canvas").evaluate(picture)
    plot.focus()
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("zoom="))
    wait_until(lambda: page.evaluate("true") and held, "the question for details")
    wait_until(lambda: plot.locator("canvas").evaluate(picture) != before, "the zoom")
    expect(caption).to_contain_text("of 10,000 points")  # the details are on the way
    assert len(held) == 1
    held[0].continue_()
    expect(caption).to_contain_text(re.compile(r"of 5,00\d points"))
    assert len(held) == 1


def test_runs_that_were_never_read_appear_one_after_another(window, tmp_path, monkeypatch):
    finished_runs(tmp_path, *(loss_curve(9000, seed) for seed in range(3)))
    # Each answer finds time for one piece of a file.
    monkeypatch.setattr(metric_column_cache, "monotonic", itertools.cycle([0.0, math.inf]).__next__)
    with visiting(tmp_path) as visitor:
        opened = window(visitor)
        asked = []
        opened.page.on("request", lambda request: asked.append(request.url))
        opened.open("/compare?runs=1,2,3")
        expect(opened.page.locator("figure figcaption")).to_contain_text("of 27,000 points drawn")
        expect(opened.page.locator("figure figcaption")).not_to_contain_text("reading")
        assert len([url for url in asked if "curves.bin" in url]) > 1
