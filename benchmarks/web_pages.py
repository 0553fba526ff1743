"""How fast the pages of `conjure web` are, in Chromium: at full size, and beside those of other tools.

    make bench-web            # 10,000 runs, 50 runs x 10 metrics x 100,000 points, a log of 1,000,000 lines
    make bench-web QUICK=1    # a tenth of it

Main entry: `main`. Invariant: docs/ is only written to by a whole run at full size. The homes take some GB of
disk while it runs.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from web.browser import launched
from web.comparison import Sizes, measure
from web.full_size import measure as measure_full_size
from web.page import lines
from web.tools import BENCHMARKS, PEERS, TOOLS, Tool

_DOCUMENT = BENCHMARKS.parent / "docs" / "benchmarks" / "web.md"
_ROUGH = BENCHMARKS / ".cache" / "results" / "web.md"
_QUICK = 0.1


def main() -> None:
    """Measure everything and write one page."""
    options = _options()
    scale = _QUICK if options.quick else 1.0
    sizes = Sizes(points=int(Sizes.points * scale))
    chosen = [tool for tool in TOOLS if not options.only or tool.name in options.only.split(",")]
    facts = machine.facts(PEERS / "python", [tool.package for tool in TOOLS if tool.package])
    with tempfile.TemporaryDirectory(prefix="conjure-bench-web-") as name, launched() as browser:
        folder = Path(name)
        found = {tool.name: _one(tool, browser, folder, sizes) for tool in chosen}
        ours = [] if options.only else measure_full_size(browser, folder, scale)
        facts["settings"] = {
            "command": f"make bench-web{' QUICK=1' if options.quick else ''}",
            "chromium": browser.version,
            "scale": scale,
            "runs": sizes.runs,
            "points": sizes.points,
        }
    text = "\n".join(lines(ours, found, TOOLS, facts)) + "\n"
    path = _ROUGH if options.quick or options.only else _DOCUMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"Written to {path}")


def _one(tool: Tool, browser: Any, folder: Path, sizes: Sizes) -> dict[str, Any]:
    where = folder / tool.name.lower().replace(", ", "-").replace(" ", "-")
    where.mkdir()
    print(f"Measuring {tool.name}", file=sys.stderr, flush=True)
    figures = measure(tool, browser, where, sizes)
    print(figures, file=sys.stderr, flush=True)
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the pages of runs in Chromium.")
    parser.add_argument("--quick", action="store_true", help="A tenth of the sizes.")
    parser.add_argument("--only", metavar="NAME,…", help="These tools side by side and nothing else.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
