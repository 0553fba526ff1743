"""The API server from its settings to its end.

Main entries: `run_server`, `run_predictor`. Invariant: the address is announced once the first model is
loaded and requests are taken.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conjure.core.home import Home
from conjure.http.access_control import AccessRules
from conjure.http.api_keys import ApiKeys
from conjure.http.application import application
from conjure.http.errors import HttpError
from conjure.http.generation.model_registry import ModelName, ModelRegistry
from conjure.http.generation.served_model import ServedModel, load_served_model
from conjure.http.generation.service import GenerationService, Limits
from conjure.http.server import HttpServer, Shutdown, address_of
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.recipes.resource_lookup import model_lookup
from conjure.serve.api import ADVICE, OPEN_PATHS, Api
from conjure.serve.links_version import LinksVersion
from conjure.serve.predictor import PredictorApi


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server is started with.

    Attributes:
        models: The models that requests may name; the first is loaded at once.
        precision: Number format, as for `conjure generate`.
        limits: How much it takes on.
        allowed_hosts: Host names beside this machine's own.
        keys: Keys that requests must bring; None asks for none.
        log_prompts: Whether the bodies of requests are logged.
        chat_template: A template to use instead of the models' own.
    """

    models: Sequence[ModelName]
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)
    allowed_hosts: Collection[str] = ()
    keys: ApiKeys | None = None
    log_prompts: bool = False
    chat_template: str | None = None

    @property
    def rules(self) -> AccessRules:
        """Who may ask."""
        return AccessRules(
            allowed_hosts=self.allowed_hosts,
            authenticated=self.keys.accept if self.keys is not None else None,
            open_paths=OPEN_PATHS,
        )


def run_server(
    settings: ServerSettings, bound: socket.socket, *, ready: Callable[[str, Api], object]
) -> None:
    """Serve models until a signal says to end.

    Args:
        settings: What to serve.
        bound: From `conjure.http.server.listen`.
        ready: Told the address once requests are taken.

    Raises:
        ConjureError: The first model cannot be loaded.
    """
    service = GenerationService(settings.limits)
    api = Api(_registry(settings), service, log_prompts=settings.log_prompts)
    app = application(api.routes(), settings.rules, advice=ADVICE)

    async def prepare() -> None:
        service.start()
        try:
            await api.registry.get(settings.models[0].name)
        except HttpError as error:
            raise error.__cause__ or error from None  # whoever started the server may know all
        api.ready = True
        ready(address_of(bound), api)

    try:
        _run(HttpServer(app, bound, Shutdown(service.drain, service.abort)), prepare)
    finally:
        service.end()


def run_predictor(
    predictor: Any,
    settings: ServerSettings,
    bound: socket.socket,
    *,
    ready: Callable[[str, PredictorApi], object],
) -> None:
    """Serve a predictor until a signal says to end.

    Args:
        predictor: From `load_predictor`.
        settings: Its models are not looked at.
        bound: From `conjure.http.server.listen`.
        ready: Told the address once requests are taken.

    Raises:
        ConjureError: The predictor cannot be prepared.
    """
    api = PredictorApi(predictor, most_waiting=settings.limits.most_waiting)

    async def prepare() -> None:
        await api.prepare()
        ready(address_of(bound), api)

    app = application(api.routes(), settings.rules)
    _run(HttpServer(app, bound, Shutdown(api.drain, lambda: None)), prepare)


def _run(server: HttpServer, prepare: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Serve, and prepare meanwhile; what that raises ends the server, and is raised here."""
    preparing: list[asyncio.Task[None]] = []

    def listening() -> None:
        task = asyncio.get_running_loop().create_task(prepare())
        task.add_done_callback(lambda done: server.end() if done.cancelled() or done.exception() else None)
        preparing.append(task)

    server.run(listening)
    for task in preparing:
        if task.done() and not task.cancelled():
            task.result()


def _registry(settings: ServerSettings) -> ModelRegistry:
    def find(source: str) -> Path:
        return resolve_model(source, lookups=[model_lookup]).folder

    def load(name: str, folder: Path) -> ServedModel:
        rows = settings.limits.most_rows
        template = settings.chat_template
        return load_served_model(
            name, folder, precision=settings.precision, rows=rows, chat_template=template
        )

    links_version = LinksVersion(Home.from_environment())
    return ModelRegistry(settings.models, find=find, load=load, links_version=links_version)
