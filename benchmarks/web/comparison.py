"""Measures one tool's pages, on the same runs as all others.

Main entry: `measure`. Invariant: a figure is the median of several visits, each with a browser that has seen
nothing; what does not work is a sentence in its place.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser
from playwright.sync_api import Error as BrowserError
from processes import environment, free_port, last_line

from web.browser import Visit
from web.figures import VISITS, Figures
from web.servers import Server, ToolError, call
from web.tools import PEERS, WRITERS, Tool, Written

_LIVE_LIMIT_S = 65.0  # some pages look for new points every 30 seconds
_FAST_S = 5.0  # a delay above is measured once
_TIDY_S = 3.0
_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Sizes:
    """How much is written."""

    runs: int = 20
    points: int = 10_000


def measure(tool: Tool, browser: Browser, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All figures of a tool; writes the runs into `folder` first."""
    figures = Figures()
    skipped = PEERS.parent / f"{tool.package}.skipped"
    if skipped.exists():
        return asdict(replace(figures, failure=f"not installed: {skipped.read_text().strip()}"))
    doing = "writing the runs"
    try:
        written = _write(tool, folder, sizes, figures)
        doing = "starting its server"
        _start_and_look(tool, browser, folder, written, figures)
        with _serving(tool, folder) as (_, entry):
            doing = "its table of runs"
            _look_at_table(tool, browser, entry, written, figures)
            doing = "its curves"
            _look_at_curves(tool, browser, entry, written, figures)
            doing = "a new point"
            _watch(tool, browser, entry, written, folder, figures)
    except (ToolError, BrowserError, TimeoutError) as error:
        figures.failure = f"{doing}: {error}".splitlines()[0][:_REASON_CHARACTERS]
    return asdict(figures)


def _write(tool: Tool, folder: Path, sizes: Sizes, figures: Figures) -> Written:
    command = [tool.python, WRITERS / tool.writer, folder, str(sizes.runs), str(sizes.points)]
    begun = time.perf_counter()
    told = json.loads(last_line(call(command, tool.environment(folder), folder)))
    figures.write_s = time.perf_counter() - begun
    return Written(**told)


@contextmanager
def _serving(tool: Tool, folder: Path) -> Iterator[tuple[Server, str]]:
    """The tool's server, and the address that a visitor begins with."""
    port = free_port()
    with Server(tool.server(folder, port), tool.environment(folder, port), port, folder) as server:
        yield server, server.address_with_token() if tool.has_token else f"http://127.0.0.1:{port}/"


def _start_and_look(tool: Tool, browser: Browser, folder: Path, written: Written, figures: Figures) -> None:
    ready, seen = [], []
    for _ in range(VISITS):
        with _serving(tool, folder) as (server, entry), Visit(browser, entry) as visit:
            visit.open(tool.table.format_map(written.names))
            ready.append(server.ready_s)
            seen.append(visit.until_rows(visit.page.locator(tool.rows), len(written.runs), server.begun))
    figures.ready_s, figures.first_sight_s = statistics.median(ready), statistics.median(seen)


def _look_at_table(tool: Tool, browser: Browser, entry: str, written: Written, figures: Figures) -> None:
    paints, rows = [], []
    for _ in range(VISITS):
        with Visit(browser, entry) as visit:
            begun = visit.open(tool.table.format_map(written.names))
            rows.append(visit.until_rows(visit.page.locator(tool.rows), len(written.runs), begun))
            paints.append(visit.first_paint())
            visit.page.wait_for_timeout(1000 * _TIDY_S)  # for what comes late
            figures.table_bytes = visit.bytes_sent
            figures.foreign, figures.errors = visit.foreign, visit.errors
    figures.table_paint_s, figures.table_rows_s = statistics.median(paints), statistics.median(rows)


def _look_at_curves(tool: Tool, browser: Browser, entry: str, written: Written, figures: Figures) -> None:
    seconds = []
    for visited in range(VISITS):
        with Visit(browser, entry) as visit:
            begun = visit.open(tool.curves.format_map(written.names))
            seconds.append(visit.until_drawn(visit.page.locator(tool.plot).first, begun))
            figures.curves_bytes = visit.bytes_sent
            if visited == 0:
                figures.foreign = [*(figures.foreign or []), *visit.foreign]
                figures.errors = [*(figures.errors or []), *visit.errors]
    figures.curves_s = statistics.median(seconds)


def _watch(
    tool: Tool, browser: Browser, entry: str, written: Written, folder: Path, figures: Figures
) -> None:
    with _live_run(tool, folder) as (run, log), Visit(browser, entry, tool.storage) as visit:
        begun = visit.open((tool.live or tool.curves).format(run=run, **written.names))
        plot = visit.page.locator(tool.plot).first
        visit.until_drawn(plot, begun, is_live=True)
        delays: list[float] = []
        for value in (20.0, 40.0, 60.0):  # each higher than any before, so that the picture changes
            delay = visit.until_changed(plot, lambda value=value: log(value), _LIVE_LIMIT_S)
            if delay is None:
                break
            delays.append(delay)
            if delay > _FAST_S:
                break
        figures.live_s = statistics.median(delays) if delays else None


@contextmanager
def _live_run(tool: Tool, folder: Path) -> Iterator[tuple[Any, Callable[[float], None]]]:
    """A run that goes on: how the tool names it, and what logs one more point of it."""
    command = [tool.python, WRITERS / tool.writer, folder, "1", "1", "live"]
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment(tool.environment(folder)),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = process.stdin

    def log(value: float) -> None:
        lines.write(f"{value}\n")
        lines.flush()

    try:
        run = None
        for line in process.stdout:
            told = json.loads(line) if line.startswith("{") else {}
            run = told.get("run", run)
            if told.get("ready"):
                break
        else:
            raise ToolError("its live run ended at once")
        yield run, log
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
