"""The first page: what is running, what failed last, how full the disk is.

Main entries: `show`, `live`. Invariant: it reads the newest runs only, however many there are.
"""

import os
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from conjure.core.home import Home
from conjure.runs.database.base import Database, RunFilter
from conjure.runs.schema.status import PHASES, RunStatus
from conjure.runs.views import RunRow, list_runs
from conjure.web.rendering import page
from conjure.web.site import Site

_SHOWN = 8
_WENT_WRONG = (
    RunStatus.FAILED,
    RunStatus.BUILD_FAILED,
    RunStatus.MOUNT_FAILED,
    RunStatus.INTERRUPTED,
)


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that holds the home: bytes in all, free, and the share in use from 0 to 1."""

    size_bytes: int
    free_bytes: int

    @property
    def used(self) -> float:
        """The share in use."""
        return 1 - self.free_bytes / self.size_bytes if self.size_bytes else 0.0


def show(request: Request) -> Response:
    """The page."""
    site: Site = request.app.state.site
    with site.store() as store:
        lists, counts = _lists(store), _counts(store)
        outputs = sum(size.size_bytes or 0 for size in store.sizes() if size.was_saved)
    return page(
        request,
        "overview.html",
        active=lists["active"],
        wrong=lists["wrong"],
        ended=lists["ended"],
        counts=counts,
        phases=PHASES,
        disk=_disk(site.home),
        outputs_bytes=outputs,
    )


def live(request: Request) -> Response:
    """Whether something changed: a digest of the lists and counts, and whether a run goes on."""
    site: Site = request.app.state.site
    with site.store() as store:
        lists, counts = _lists(store), _counts(store)
    seen = [(row.number, row.status, row.metric_text()) for rows in lists.values() for row in rows]
    return JSONResponse({"cursor": f"{hash(str((seen, counts))):x}", "active": counts["active"] > 0})


def _lists(store: Database) -> dict[str, list[RunRow]]:
    """The newest runs that go on, that went wrong, and that have ended."""
    return {
        name: list_runs(store, RunFilter(limit=_SHOWN, statuses=statuses))
        for name, statuses in (("active", PHASES), ("wrong", _WENT_WRONG), ("ended", (RunStatus.COMPLETE,)))
    }


def _counts(store: Database) -> dict[str, int]:
    return {"active": store.count(RunFilter(statuses=PHASES)), "all": store.count(RunFilter())}


def _disk(home: Home) -> Disk | None:
    with suppress(OSError):
        facts = os.statvfs(home.root)
        return Disk(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)
    return None
