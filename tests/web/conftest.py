"""A real Chromium on the pages of a real server; every page is watched for what must never happen."""

import shutil
import threading
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from support.web_homes import small_home
from support.web_sites import visiting

# For what is expected to be seen: a page without active runs asks every three seconds, and the machine may be
# busy. The contexts' own timeout is for what is done only.
expect.set_options(timeout=30_000)

AXE = Path(__file__).parents[2] / ".venv" / "axe-core-4.14.1" / "package" / "axe.min.js"


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        assert path is not None, "there is no Chromium; `make test-web` installs it"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Window:
    """A page in a browser of its own, with what it complained of and what it asked others for."""

    def __init__(self, browser, visitor, **options):
        self.origin = f"http://127.0.0.1:{visitor.port}"
        self.complaints, self.foreign = [], []
        self.context = browser.new_context(**options)
        # Before its server ends, since a page that asks one that has ended complains.
        visitor.leaving.callback(self.context.close)
        self.context.set_default_timeout(15000)
        self.page = self.tab()
        self.page.goto(f"{self.origin}/?token={visitor.session.token}")

    def tab(self):
        page = self.context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._asked(request.url))
        return page

    def _asked(self, url):
        if not url.startswith((self.origin + "/", "data:", "about:")):
            self.foreign.append(url)

    def open(self, path):
        answer = self.page.goto(self.origin + path)
        return answer.status

    def axe(self):
        """What axe finds wrong on the page, in a few words each."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]


@pytest.fixture
def window(browser):
    """Makes windows on a visitor's pages; in the end none complained, nor asked beyond the origin."""
    made = []

    def make(visitor, **options):
        made.append(Window(browser, visitor, **options))
        return made[-1]

    yield make
    for each in made:
        each.context.close()
        assert each.complaints == []
        assert each.foreign == []


@pytest.fixture(scope="session")
def small(tmp_path_factory, browser):
    """The pages of a small home; they end before the browser."""
    root = tmp_path_factory.mktemp("web") / "home"
    small_home(root)
    with visiting(root) as visitor:
        yield visitor


class Writer:
    """Writes in steps, as a run does, until it is stopped."""

    def __init__(self, step, every_s):
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, args=[step, every_s])
        self.count = 0
        self._thread.start()

    def _write(self, step, every_s):
        while not self._over.wait(every_s):
            step(self.count)
            self.count += 1

    def stop(self):
        self._over.set()
        self._thread.join()


@pytest.fixture
def writing():
    """Starts writers, and stops them in the end."""
    made = []

    def start(step, every_s=0.1):
        made.append(Writer(step, every_s))
        return made[-1]

    yield start
    for each in made:
        each.stop()
