"""Something that differs once a link may mean something else.

Main entry: `LinksVersion`. Invariant: the database of a team is asked once a second at most; if it does not
answer, no request waits for it any longer.
"""

import asyncio
import logging
import time

from conjure.core.home import Home
from conjure.errors import ConjureError
from conjure.http.daemon_threads import in_daemon_thread
from conjure.recipes.resource_lookup import known_links

links_log = logging.getLogger("conjure.serve.links")

_EVERY_S = 1.0


class LinksVersion:
    """The links of a home as they are now: in a team, as any of its machines has set them.

    Args:
        home: The home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._links: object = None
        self._asking: asyncio.Task[None] | None = None
        self._since = 0.0

    async def __call__(self) -> object:
        """What differs from what it was before once links have changed."""
        if not self._home.team_file.exists():
            return self._file_version()
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._since >= _EVERY_S):
            self._asking, self._since = asyncio.create_task(in_daemon_thread(self._ask)), now
        await asyncio.wait([self._asking], timeout=max(self._since + _EVERY_S - now, 0))
        return self._links

    def _file_version(self) -> object:
        """Of a home of one machine: the file that is written anew with each change."""
        try:
            status = self._home.links_file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _ask(self) -> None:
        try:
            self._links = known_links(self._home)
        except ConjureError as error:
            links_log.warning("links cannot be read; they mean what they meant: %s", error)
