"""Every page in both themes and at three widths: no complaint of axe, nothing wider than the window."""

import re

import pytest

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.web_homes import HOSTILE, log_points, loss_curve, print_lines, save_file, sweep_home
from support.web_sites import visiting

PAGES = [
    "/",
    "/runs",
    "/runs?q=nothing-like-this",
    "/runs/1",
    "/runs/6",
    "/runs/8",
    "/runs/1/log",
    "/runs/1/files",
    "/runs/1/files/scores.csv",
    "/runs/1/files/model/config.json",
    "/runs/3/code",
    "/runs/3/lineage",
    "/lineage",
    "/compare",
    "/compare?runs=1,2,3",
    "/playground",
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(window, small, theme):
    opened = window(small, color_scheme=theme)
    for path in PAGES:
        assert opened.open(path) == 200
        opened.page.wait_for_timeout(400)
        assert opened.axe() == [], path


@pytest.mark.parametrize(("width", "zoom"), [(360, 1), (1024, 1), (1440, 2), (720, 2)])
def test_nothing_is_wider_than_the_window(window, small, width, zoom):
    # A page at 200 % has half the room.
    opened = window(small, viewport={"width": width // zoom, "height": 740}, device_scale_factor=zoom)
    for path in PAGES:
        opened.open(path)
        wide = opened.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_sweep_in_both_themes(window, tmp_path, theme):
    sweep_home(tmp_path)
    with visiting(tmp_path) as visitor:
        opened = window(visitor, color_scheme=theme, viewport={"width": 360, "height": 740})
        for path in ("/sweeps", "/sweeps/1"):
            assert opened.open(path) == 200
            assert opened.axe() == [], path
            wide = opened.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, path


def test_hostile_strings_do_nothing(window, tmp_path):
    home = Home(tmp_path)
    with SqliteDatabase.open(home) as store:
        for place, text in enumerate(HOSTILE):
            name = "".join(one for one in text if one.isprintable())[:79].strip()
            record = add_run(store, text, description=text, labels=(name,), params={"p": text})
            log_points(home, record.number, name, loss_curve(30, place))
            print_lines(home, record.number, [text, f"\x1b[31m{text}\x1b[0m", text * 50])
            save_file(home, record.number, f"{name.replace('/', '_')}.csv", f"{text},b\n1,2\n")
            finish(store, record.number, Ending(EndReason.NONZERO_EXIT, 1, message=text))
            store.refresh_summaries(record.number)
    with visiting(tmp_path, allow_actions=True) as visitor:
        opened = window(visitor)
        paths = [
            "/",
            "/runs?column=param:p&column=description&column=labels&column=metric",
            "/compare?runs=1,2,3",
        ]
        for number in range(1, len(HOSTILE) + 1):
            paths += [f"/runs/{number}{part}" for part in ("", "/log", "/files")]
            paths += re.findall(
                rf'href="(/runs/{number}/files/[^"]+)"', visitor.page(f"/runs/{number}/files")
            )
        for path in paths:
            assert opened.open(path) == 200
            opened.page.wait_for_timeout(150)
        assert opened.page.evaluate("document.querySelectorAll('script:not([src])').length") == 0


def test_what_the_pages_weigh(small):
    import gzip

    from conjure.web.rendering import assets

    sent = [path.read_bytes() for path in assets().values() if path.suffix in (".js", ".css")]
    assert sum(map(len, sent)) <= 150_000
    assert sum(len(gzip.compress(content)) for content in sent) <= 60_000
