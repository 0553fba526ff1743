"""Browsers that are opened on an address with a token."""

import stat
import sys
import time
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from click.testing import CliRunner

from conjure.cli.commands import jupyter, web
from conjure.core.home import Home
from conjure.http import browser
from conjure.web import serving

TOKEN = "3bbd0294d3b2ab78"


class Browser:
    """What a browser was told to open, which every user can read in `ps`; and what it found there."""

    def __init__(self):
        self.told, self.mode, self.page = "", 0, ""

    def open(self, address):
        self.told = address
        self.mode, self.page = stat.S_IMODE(self.file.stat().st_mode), self.file.read_text()
        return True

    @property
    def file(self):
        parts = urlsplit(self.told)
        assert parts.scheme == "file"
        return Path(url2pathname(parts.path))

    def assert_opened_by_a_file_of_ours(self, address):
        assert TOKEN not in self.told
        assert self.mode == 0o600
        assert f'content="0; url={address}"' in self.page
        until = time.monotonic() + 60
        while self.file.exists():
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.fixture
def opened(monkeypatch):
    opened = Browser()
    monkeypatch.setattr(browser, "_REMOVED_AFTER_S", 0)
    monkeypatch.setattr(webbrowser, "open", opened.open)
    return opened


def test_the_pages_of_a_home(opened, conjure_home, monkeypatch):
    address = f"http://127.0.0.1:8180/?token={TOKEN}"
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(serving, "serve", lambda home, options, ready: ready(address))
    done = CliRunner().invoke(web.command, [])
    assert done.exit_code == 0, done.output
    assert address in done.output
    opened.assert_opened_by_a_file_of_ours(address)


def test_jupyterlab(opened, conjure_home, monkeypatch):
    monkeypatch.setattr(jupyter._Server, "_answers", lambda self: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert jupyter._Server(Home(conjure_home), 8888, TOKEN).announce(opens=True)
    opened.assert_opened_by_a_file_of_ours(f"http://127.0.0.1:8888/lab?token={TOKEN}")


@pytest.mark.parametrize("error", [webbrowser.Error("there is none"), OSError("no space left")])
def test_without_a_browser_there_is_still_the_address(monkeypatch, error):
    def fail(address):
        raise error

    monkeypatch.setattr(browser, "_REMOVED_AFTER_S", 0)
    monkeypatch.setattr(webbrowser, "open", fail)
    browser.open_in_browser(f"http://127.0.0.1:8180/?token={TOKEN}")


def test_an_address_is_no_markup(opened):
    browser.open_in_browser('http://127.0.0.1/?a=1&b="><script>')
    assert "<script>" not in opened.page
    assert "?a=1&amp;b=" in opened.page
