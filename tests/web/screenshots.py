"""Makes the pictures of docs/web.md: every page of `conjure web`, on a small home that is made for it.

    scripts/setup-browser && .venv/bin/python tests/web/screenshots.py

Main entry: `main`. Invariant: only docs/images/ is written to; what the pictures show is made up.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from support.web_homes import small_home, sweep_home  # noqa: E402 - tests/ is no package
from support.web_sites import visiting  # noqa: E402

# Name of the picture -> the page, and whether it is shown dark.
PAGES = {
    "home": ("/", False),
    "runs": ("/runs", False),
    "run": ("/runs/1", False),
    "run-dark": ("/runs/8", True),
    "log": ("/runs/1/log", True),
    "files": ("/runs/1/files/scores.csv", False),
    "code": ("/runs/3/code", False),
    "compare": ("/compare?runs=1,2,3", False),
    "lineage": ("/lineage", False),
    "sweep": ("/sweeps/1", False),
    "playground": ("/playground", True),
}
_SIZE = {"width": 1120, "height": 700}
_COLOURS = 48


def main() -> int:
    """Make all of them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        small_home(Path(folder) / "home")
        sweep_home(Path(folder) / "home")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        with visiting(Path(folder) / "home") as visitor:
            origin = f"http://127.0.0.1:{visitor.port}"
            for dark in (False, True):
                context = browser.new_context(viewport=_SIZE, color_scheme="dark" if dark else "light")
                page = context.new_page()
                page.goto(f"{origin}/?token={visitor.session.token}")
                for name, (path, is_dark) in PAGES.items():
                    if is_dark == dark:
                        page.goto(origin + path)
                        _prepare(page, name)
                        _save(page.screenshot(), IMAGES / f"web-{name}.png")
                context.close()
        browser.close()
    return 0


def _prepare(page: Page, name: str) -> None:
    """Wait for what a page draws."""
    if name == "playground":
        page.get_by_role("button", name="Generate").click()
        page.get_by_text(" tokens in ").wait_for(timeout=120_000)
        page.locator(".tok[tabindex]").nth(3).focus()
    if name == "home":
        folder = page.locator("code", has_text="/home")
        folder.evaluate("place => place.textContent = '~/.local/share/conjure'")
    page.wait_for_timeout(1200)


def _save(picture: bytes, path: Path) -> None:
    """In few colours, which these pages have, so that it is small."""
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
