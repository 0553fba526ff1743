"""Opening an address that has a token in a browser.

Main entry: `open_in_browser`. Invariant: the token stands in no command line, which every user of the machine
can read, but in a file that only this user can.
"""

import contextlib
import html
import os
import subprocess
import tempfile
import webbrowser
from pathlib import Path

_REMOVED_AFTER_S = 60  # a browser may be slow to start
_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>conjure</title>
<p><a href="{address}">Open conjure</a></p>
"""


def open_in_browser(address: str) -> None:
    """Open an address in a browser, if there is one; who waits for it has been told the address already."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, webbrowser.Error):
        page = _forwarding_page(address)
        try:
            webbrowser.open(page.as_uri())
        finally:
            _remove_later(page)


def _forwarding_page(address: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="conjure-", suffix=".html")  # mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_PAGE.format(address=html.escape(address)))
    return Path(name)


def _remove_later(page: Path) -> None:
    """Have a process of its own remove it: this one may end before the browser has read the page."""
    try:
        subprocess.run(
            ["/bin/sh", "-c", f'(sleep {_REMOVED_AFTER_S}; rm -f -- "$0") &', os.fspath(page)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )
    except BaseException:
        page.unlink(missing_ok=True)
        raise
