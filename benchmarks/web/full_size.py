"""Our own pages at full size, each figure beside its goal.

Main entry: `measure`. Invariant: a figure is the median of several tries, from a `conjure web` that was
started as a user starts it.
"""

import gzip
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Locator
from processes import free_port

from conjure.core.home import Home
from conjure.runs.schema.run_folder import RunFolder
from conjure.web.rendering import assets
from web.browser import Visit
from web.figures import Row
from web.homes import CURVES, METRICS, line, long_curves, long_log, many_runs, point
from web.servers import Server

_TRIES = 5
_STARTS = 3
_TABS = 12
_ZOOMED = "loss3"
_READING_MS = 1_000_000
# Seconds from a key press on a curve to the frame after its caption has changed.
_ZOOM = """key => new Promise(told => {
    const figure = document.querySelector("figure[data-metric]:not([hidden])");
    const begun = performance.now();
    new MutationObserver((_, seen) => {
        seen.disconnect();
        requestAnimationFrame(() => told((performance.now() - begun) / 1000));
    }).observe(figure.querySelector("figcaption"), { childList: true, characterData: true, subtree: true });
    figure.querySelector(".plot").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
})"""
# Seconds from a key in the search field, or a click on a heading, to the frame with the rows that follow.
_ROWS = """([word, heading]) => new Promise(told => {
    const begun = performance.now();
    new MutationObserver((_, seen) => {
        seen.disconnect();
        requestAnimationFrame(() => {
            const painted = new MessageChannel();
            painted.port1.onmessage = () => told((performance.now() - begun) / 1000);
            painted.port2.postMessage(null);
        });
    }).observe(document.querySelector("[data-results]"), { childList: true });
    if (heading) [...document.querySelectorAll("thead a")].find(each => each.textContent === heading).click();
    const field = document.querySelector("[data-main-search]");
    field.value = word;
    if (!heading) field.dispatchEvent(new InputEvent("input", { bubbles: true }));
})"""


@dataclass(frozen=True)
class _Bench:
    """A browser, and all visits that were made with it."""

    browser: Browser
    visits: list[Visit] = field(default_factory=list)

    @contextmanager
    def serving(self, home: Home) -> Iterator[Server]:
        """A `conjure web`."""
        port = free_port()
        command = [sys.executable, "-m", "conjure", "web", "--no-open", "--port", str(port)]
        with Server(command, {"CONJURE_HOME": str(home.root)}, port, home.root) as server:
            yield server

    @contextmanager
    def visiting(self, home: Home) -> Iterator[Visit]:
        """A visit to a `conjure web`."""
        with self.serving(home) as server, Visit(self.browser, server.address_with_token()) as visit:
            self.visits.append(visit)
            yield visit


def measure(browser: Browser, folder: Path, scale: float) -> list[Row]:
    """Everything; the homes are made below `folder`, one at a time."""
    bench, rows = _Bench(browser), []
    for build, measures in (
        (many_runs, (_starts, _table)),
        (long_curves, (_curves, _live, _tabs)),
        (long_log, (_log,)),
    ):
        home = Home(folder / build.__name__)
        build(home, scale)
        for each in measures:
            rows += each(bench, home)
        shutil.rmtree(home.root)
    return [
        *rows,
        *_weight(),
        Row("requests beyond the origin", sum(len(visit.foreign) for visit in bench.visits), "", goal=0),
        Row("errors on the console", sum(len(visit.errors) for visit in bench.visits), "", goal=0),
    ]


def _starts(bench: _Bench, home: Home) -> list[Row]:
    seconds = []
    for _ in range(_STARTS):
        with bench.serving(home) as server:
            seconds.append(server.ready_s)
    return [Row("`conjure web`, from the command to its first answer", statistics.median(seconds), goal=0.8)]


def _table(bench: _Bench, home: Home) -> list[Row]:
    with bench.visiting(home) as visit:
        paints, answers = [], []
        for _ in range(_TRIES):
            visit.open("/runs")
            visit.page.locator("[data-runs] tbody tr").first.wait_for()
            paints.append(visit.first_paint())
            answers.append(visit.wait_for_answer())
        words = iter([f"seed 77{each}" for each in range(_TRIES)])
        searched = _median(lambda: visit.page.evaluate(_ROWS, [next(words), ""]))
        visit.open("/runs")
        visit.page.locator("[data-runs] tbody tr").first.wait_for()
        ordered = _median(lambda: visit.page.evaluate(_ROWS, ["", "lr"]))
    return [
        Row("first page of 100 of the runs, to first paint", statistics.median(paints), goal=0.15),
        Row("of that, until the server answers", statistics.median(answers), goal=0.03),
        Row("search among the runs, from a key until its rows are painted", searched, goal=0.1),
        Row("the runs ordered by a param, from a click until they are painted", ordered),
    ]


def _curves(bench: _Bench, home: Home) -> list[Row]:
    numbers = ",".join(map(str, range(1, CURVES + 1)))
    path = f"/compare?runs={numbers}&show={_ZOOMED}"
    with bench.visiting(home) as visit:
        first, again = _until_drawn(visit, path), _median(lambda: _until_drawn(visit, path))
        zoomed = _median(lambda: visit.page.evaluate(_ZOOM, "+"))
    for number in range(1, CURVES + 1):
        RunFolder.of(home, number).columns.unlink()
    with bench.visiting(home) as visit:
        begun = visit.open(path)
        _caption(visit).wait_for(timeout=_READING_MS)
        some = time.perf_counter() - begun
        _caption(visit, has_not_text="reading").wait_for(timeout=_READING_MS)
        whole = time.perf_counter() - begun
    return [
        Row(f"a metric of {CURVES} runs compared, first sight of all", first, goal=1.0),
        Row("the same, later: from the request of the page until it is drawn", again, goal=1.0),
        Row("zoom in, until it is drawn", zoomed, goal=0.2),
        Row("runs of an earlier version compared (JSON is read), until the first are drawn", some),
        Row("the same, until all are drawn", whole),
    ]


def _until_drawn(visit: Visit, path: str) -> float:
    begun = visit.open(path)
    _caption(visit, has_not_text="reading").wait_for()
    return time.perf_counter() - begun


def _caption(visit: Visit, **given: str) -> Locator:
    """The caption of the curves, once there are some."""
    return visit.page.locator("figure:not([hidden]) figcaption", has_text="drawn", **given)


def _live(bench: _Bench, home: Home) -> list[Row]:
    folder = RunFolder.of(home, 1)
    with bench.visiting(home) as visit:
        visit.open("/runs/1")
        caption = visit.page.locator("figure[data-metric=loss0] figcaption")
        caption.get_by_text("last").wait_for(timeout=60_000)
        ticks = visit.sizes_of("/live.json")
        marks = iter(range(1, 1000))

        def point_seen() -> float:
            value = 100 + next(marks)
            begun = time.perf_counter()
            _append(
                folder.metrics, "".join(point(f"loss{each}", 10**6 + value, value) for each in range(METRICS))
            )
            caption.get_by_text(f"last {value} ").wait_for()
            return time.perf_counter() - begun

        def line_seen() -> float:
            text = f"mark {next(marks)} of the log"
            begun = time.perf_counter()
            _append(folder.log, line(0, text))
            visit.page.locator(".line", has_text=text).wait_for()
            return time.perf_counter() - begun

        points, lines = _median(point_seen), _median(line_seen)
    return [
        Row(f"a point of each of {METRICS} metrics on screen after it was written", points, goal=1.0),
        Row("a line of the log on screen after it was written", lines, goal=1.0),
        Row("the largest answer to a question for news", max(ticks), "bytes", goal=2000),
    ]


def _tabs(bench: _Bench, home: Home) -> list[Row]:
    seconds = []
    with bench.visiting(home) as visit:
        for _ in range(_TABS):
            page = visit.tab()
            begun = time.perf_counter()
            page.goto(f"{visit.origin}/runs/1", wait_until="commit")
            page.locator("figure[data-metric=loss0] canvas").wait_for()
            seconds.append(time.perf_counter() - begun)
    return [Row(f"the slowest of {_TABS} tabs of a running run, opened one after another", max(seconds))]


def _log(bench: _Bench, home: Home) -> list[Row]:
    with bench.visiting(home) as visit:
        lines = visit.page.locator(".lines .line")

        def end() -> float:
            begun = visit.open("/runs/1/log")
            lines.last.wait_for()
            return time.perf_counter() - begun

        def found() -> float:
            visit.open("/runs/1/log")
            lines.last.wait_for()
            begun = time.perf_counter()
            visit.page.get_by_label("Search the log").fill("step 77 ")
            visit.page.locator(".line.hit").wait_for()
            return time.perf_counter() - begun

        shown, searched, count = _median(end), _median(found), lines.count()
    return [
        Row("the end of the log shown", shown, goal=0.3),
        Row("a line near its beginning found", searched, goal=2.0),
        Row("lines in the page", count, "", goal=2000),
    ]


def _weight() -> list[Row]:
    sent = [path.read_bytes() for path in assets().values() if path.suffix in (".js", ".css")]
    compressed = sum(len(gzip.compress(content)) for content in sent)
    return [
        Row("all scripts and styles", sum(map(len, sent)), "bytes", goal=150_000),
        Row("the same, compressed", compressed, "bytes", goal=60_000),
    ]


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _median(measured: Callable[[], float]) -> float:
    return statistics.median(measured() for _ in range(_TRIES))
