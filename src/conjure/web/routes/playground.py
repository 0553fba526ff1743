"""The playground: prompts, texts token by token, two models side by side.

Main entries: `LazyPlayground`, `show`. Invariant: what generating needs is imported when somebody first
generates; without it, the page says what to install.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from conjure.http.errors import HttpError
from conjure.http.event_stream import EventStream
from conjure.http.request_body import read_json_object
from conjure.installation import install_command
from conjure.runs.database.base import RunFilter
from conjure.runs.schema.status import RunStatus
from conjure.web.rendering import page
from conjure.web.site import Site

if TYPE_CHECKING:
    from conjure.web.playground import Playground

_NEEDED = ("numpy", "tokenizers")
_MOST_RUNS = 100
_LARGEST_BODY = 1 << 17


class LazyPlayground:
    """The playground, made when it is first used."""

    def __init__(self) -> None:
        self._made: Playground | None = None

    @property
    def is_installed(self) -> bool:
        """Whether what generating needs is there."""
        return all(find_spec(name) is not None for name in _NEEDED)

    def get(self) -> "Playground":
        """The playground; to be called in the event loop.

        Raises:
            HttpError: 501 where what it needs is not installed.
        """
        if not self.is_installed:
            raise HttpError(501, f"generating is not installed: {install_command('generate')}")
        made: Playground = self._made or import_module("conjure.web.playground").Playground()
        self._made = made
        return made

    def drain(self) -> None:
        """Take no new requests."""
        if self._made is not None:
            self._made.drain()

    def abort(self) -> None:
        """End what is going on."""
        if self._made is not None:
            self._made.abort()

    def end(self) -> None:
        """Let go of its thread."""
        if self._made is not None:
            self._made.end()


def show(request: Request) -> Response:
    """The page."""
    playground: LazyPlayground = request.app.state.playground
    names = model_names(request.app.state.site)
    return page(
        request,
        "playground.html",
        models=names,
        installed=playground.is_installed,
        install_command=install_command("generate"),
    )


async def generate(request: Request) -> Response | ASGIApp:
    """A text, as a stream of events."""
    asked = await read_json_object(request, most_bytes=_LARGEST_BODY)
    names = await run_in_threadpool(model_names, request.app.state.site)
    playground: LazyPlayground = request.app.state.playground
    return EventStream(await playground.get().generate(asked, names))


async def score(request: Request) -> Response:
    """How likely each token of a text is."""
    asked = await read_json_object(request, most_bytes=_LARGEST_BODY)
    names = await run_in_threadpool(model_names, request.app.state.site)
    playground: LazyPlayground = request.app.state.playground
    return JSONResponse(await playground.get().score(asked, names))


def model_names(site: Site) -> list[str]:
    """The models to choose from: the embedded one, fine-tunes that completed, links."""
    wanted = RunFilter(kind="finetune", statuses=(RunStatus.COMPLETE,), limit=_MOST_RUNS)
    with site.store() as store:
        runs = [f"runs/{run.number}" for run in store.listing(wanted)]
        links = [link.name for link in store.links()]
    return ["sprite", *runs, *links]
