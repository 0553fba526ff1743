"""The API server on a tiny model, for tests of its answers."""

import threading
from contextlib import contextmanager

from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.generation.model_registry import ModelName, ModelRegistry
from conjure.http.generation.served_model import load_served_model
from conjure.http.generation.service import GenerationService, Limits
from conjure.http.server import Shutdown
from conjure.serve.api import ADVICE, OPEN_PATHS, Api
from support.http_servers import running


def registry_of(folders, *, precision="float32", chat_template=None, links_version=lambda: None):
    """A registry that serves checkpoint folders by their names."""

    async def version():
        return links_version()

    return ModelRegistry(
        [ModelName(name, str(folder)) for name, folder in folders.items()],
        find=lambda source: next(folder for folder in folders.values() if str(folder) == source),
        load=lambda name, folder: load_served_model(
            name, folder, precision=precision, rows=8, chat_template=chat_template
        ),
        links_version=version,
    )


@contextmanager
def serving(folders, *, limits=None, rules=None, registry=None, **options):
    """A client of a server whose first model is loaded; it has `.api` and `.service`."""
    service = GenerationService(limits or Limits())
    api = Api(registry or registry_of(folders, **options), service)
    app = application(api.routes(), rules or AccessRules(open_paths=OPEN_PATHS), advice=ADVICE)
    loaded = threading.Event()

    async def started(scope, receive, send):
        """Starts the service in the loop of the server, with its first request."""
        if not api.ready:
            service.start()
            await api.registry.get(api.registry.given[0].name)
            api.ready = True
            loaded.set()
        await app(scope, receive, send)

    with running(started, Shutdown(service.drain, service.abort)) as client:
        client.get("/health")
        assert loaded.is_set()
        client.api, client.service = api, service
        yield client
    service.end()
