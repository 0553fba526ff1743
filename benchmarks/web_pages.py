"""How fast the pages of `conjure web` are, in Chromium, on homes made for it.

    make bench-web            # 10,000 runs, 50 runs x 10 metrics x 100,000 points, a log of 1,000,000 lines
    make bench-web QUICK=1    # a tenth of it

Main entry: `main`. Each figure is the median of several tries, beside the goal it is held against. The homes
take some GB of disk while it runs.
"""

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from playwright.sync_api import Page, sync_playwright  # noqa: E402 - tests/ is no package

from conjure.core.home import Home  # noqa: E402
from conjure.runs.database.sqlite import SqliteDatabase  # noqa: E402
from conjure.runs.schema.run_folder import RunFolder  # noqa: E402
from conjure.runs.schema.spec import RunSpec  # noqa: E402
from conjure.runs.schema.status import Ending, EndReason, RunStatus  # noqa: E402
from support.casting import OWNER, add_run, advance  # noqa: E402
from support.web_homes import loss_curve  # noqa: E402
from support.web_sites import visiting  # noqa: E402

_TRIES = 5
# Seconds from the request of a page to its first paint.
_FIRST_PAINT = """new Promise(told => new PerformanceObserver(list => {
    const paint = list.getEntriesByName("first-contentful-paint")[0];
    if (paint) told(paint.startTime / 1000);
}).observe({ type: "paint", buffered: true }))"""


def main(arguments: list[str]) -> int:
    """Measure everything and print one table."""
    scale = 0.1 if "--quick" in arguments else 1.0
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="conjure-bench-web-") as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        for name, build, measure in (
            ("runs", _many_runs, _measure_table),
            ("curves", _long_curves, _measure_curves),
            ("log", _long_log, _measure_log),
        ):
            root = Path(folder) / name
            build(Home(root), scale)
            with visiting(root) as visitor:
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(f"http://127.0.0.1:{visitor.port}/?token={visitor.session.token}")
                rows += measure(page, f"http://127.0.0.1:{visitor.port}")
                page.close()
            shutil.rmtree(root)
        browser.close()
    print(f"| what (scale {scale:g}) | measured | goal |\n|---|---|---|")
    for row in rows:
        print("| {} | {} | {} |".format(*row))
    return 0


def _many_runs(home: Home, scale: float) -> None:
    with SqliteDatabase.open(home) as store:
        for number in range(int(10_000 * scale)):
            spec = RunSpec(
                command=(f"python train.py --seed {number}",),
                folder=Path("/code"),
                params={"lr": str(10 ** -random.uniform(1, 5)), "seed": str(number)},
            )
            store.create_run(spec, OWNER, lambda given: home.run_folder(given).mkdir(parents=True))
            store.end_run(number + 1, Ending(EndReason.KILL_REQUESTED))


def _long_curves(home: Home, scale: float) -> None:
    points = int(100_000 * scale)
    with SqliteDatabase.open(home) as store:
        for _ in range(50):
            number = add_run(store, "python train.py").number
            advance(store, number, RunStatus.RUNNING)
            curve = loss_curve(points, number)
            with RunFolder.of(home, number).metrics.open("w") as file:
                for step, value in enumerate(curve):
                    for metric in range(10):
                        file.write(
                            f'{{"name": "loss{metric}", "step": {step}, "value": {value!r},'
                            f' "time": {1.7e9 + step:.6f}}}\n'
                        )
            store.refresh_summaries(number)


def _long_log(home: Home, scale: float) -> None:
    with SqliteDatabase.open(home) as store:
        number = add_run(store, "python train.py").number
        advance(store, number, RunStatus.RUNNING)
    with RunFolder.of(home, number).log.open("w") as file:
        for line in range(int(1_000_000 * scale)):
            entry = {
                "time": 1.7e9 + line,
                "stream": "stdout",
                "text": f"step {line} loss {1 / (line + 1):.6f}\n",
            }
            file.write(json.dumps(entry) + "\n")


def _measure_table(page: Page, origin: str) -> list[tuple[str, str, str]]:
    def painted(path: str) -> Callable[[], float]:
        def measure() -> float:
            page.goto(origin + path)
            return page.evaluate(_FIRST_PAINT)

        return measure

    return [
        ("first page of the runs, to first paint", _median(painted("/runs")), "0.15 s"),
        ("search among the runs, to first paint", _median(painted("/runs?q=seed+777")), "0.1 s"),
        ("order by a param, to first paint", _median(painted("/runs?sort=-param:lr")), "-"),
    ]


def _measure_curves(page: Page, origin: str) -> list[tuple[str, str, str]]:
    numbers = ",".join(map(str, range(1, 51)))
    fetch = (
        "async address => { const begun = performance.now(); await (await fetch(address)).text();"
        " return (performance.now() - begun) / 1000; }"
    )

    def fetched(query: str) -> Callable[[], float]:
        return lambda: page.evaluate(fetch, f"{origin}/curves.json?runs={numbers}&metric=loss3&{query}")

    first = fetched("parts=800")()
    return [
        ("50 runs compared, first sight (JSON is read)", f"{first:.2f} s", "-"),
        ("50 runs compared, from columns", _median(fetched("parts=800")), "1 s"),
        ("the same, zoomed to a tenth", _median(fetched("parts=800&lower=4000&upper=5000")), "0.2 s"),
    ]


def _measure_log(page: Page, origin: str) -> list[tuple[str, str, str]]:
    def end() -> float:
        begun = time.perf_counter()
        page.goto(f"{origin}/runs/1/log")
        page.locator(".lines .line").last.wait_for()
        return time.perf_counter() - begun

    def search() -> float:
        page.goto(f"{origin}/runs/1/log")
        begun = time.perf_counter()
        page.get_by_label("Search the log").fill("step 77 ")
        page.locator(".line.hit").wait_for()
        return time.perf_counter() - begun

    lines = page.locator(".lines .line")
    return [
        ("end of the log shown", _median(end), "0.3 s"),
        ("a line near the beginning found", _median(search), "2 s"),
        ("lines in the page", str(lines.count()), "2,000"),
    ]


def _median(measure: Callable[[], float]) -> str:
    return f"{statistics.median(measure() for _ in range(_TRIES)):.2f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
