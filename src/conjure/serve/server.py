"""The API server from its settings to its end.

Main entry: `run_server`. Invariant: the address is announced once the first model is loaded and requests are
taken.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import ConjureError
from conjure.http.access import AccessRules
from conjure.http.api_keys import ApiKeys
from conjure.http.application import application
from conjure.http.generation.model_registry import ModelName, ModelRegistry
from conjure.http.generation.served_model import ServedModel, load_served_model
from conjure.http.generation.service import GenerationService, Limits
from conjure.http.server import HttpServer, Shutdown, address_of
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.recipes.resource_lookup import model_lookup
from conjure.serve.api import ADVICE, OPEN_PATHS, Api


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


def run_server(
    settings: ServerSettings, bound: socket.socket, *, ready: Callable[[str, Api], object]
) -> None:
    """Serve until a signal says to end.

    Args:
        settings: What to serve.
        bound: From `conjure.http.server.listen`.
        ready: Told the address once requests are taken.

    Raises:
        ConjureError: The first model cannot be loaded.
    """
    service = GenerationService(settings.limits)
    api = Api(_registry(settings), service, log_prompts=settings.log_prompts)
    rules = AccessRules(
        allowed_hosts=settings.allowed_hosts,
        authenticated=settings.keys.accept if settings.keys is not None else None,
        open_paths=OPEN_PATHS,
    )
    app = application(api.routes(), rules, advice=ADVICE)
    server = HttpServer(app, bound, Shutdown(service.drain, service.abort))
    address = address_of(bound)
    failures: list[Exception] = []

    async def load_first() -> None:
        try:
            await api.registry.get(settings.models[0].name)
        except Exception as error:  # noqa: BLE001 - raised again where the server was started
            failures.append(error)
            server.end()
            return
        api.ready = True
        ready(address, api)

    def listening() -> None:
        service.start()
        tasks.add(asyncio.get_running_loop().create_task(load_first()))

    tasks: set[asyncio.Task[None]] = set()
    try:
        server.run(listening)
    finally:
        service.end()
    if failures:
        cause = failures[0].__cause__
        raise cause if isinstance(cause, ConjureError) else failures[0]


def _registry(settings: ServerSettings) -> ModelRegistry:
    home = Home.from_environment()

    def find(source: str) -> Path:
        return resolve_model(source, lookups=[model_lookup]).folder

    def load(name: str, folder: Path) -> ServedModel:
        rows = settings.limits.most_rows
        template = settings.chat_template
        return load_served_model(
            name, folder, precision=settings.precision, rows=rows, chat_template=template
        )

    def links_version() -> object:
        try:
            status = home.links_file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    return ModelRegistry(settings.models, find=find, load=load, links_version=links_version)
