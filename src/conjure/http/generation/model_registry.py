"""The models that requests may name: given when the server started, loaded when they are first used.

Main entries: `ModelName`, `ModelRegistry`. Invariant: a request's name is only ever compared with the names
given; it is never a path, a link or a name on a hub. What a given name means is looked up again when links
have changed, so that a link that was moved takes effect for new requests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conjure.errors import ConjureError
from conjure.http.daemon_threads import in_daemon_thread
from conjure.http.errors import HttpError, shown
from conjure.http.generation.loading_models import LoadingModels
from conjure.http.generation.served_model import ServedModel

models_log = logging.getLogger("conjure.http.models")


@dataclass(frozen=True, slots=True)
class ModelName:
    """One model that was given.

    Attributes:
        name: What requests call it, and `/v1/models` lists.
        source: What it is: a run, a link, a folder, a model's name. Requests may call it that as well.
    """

    name: str
    source: str


class ModelRegistry:
    """The models of one server.

    Args:
        given: Their names; the first is loaded first.
        find: Tells the folder of a source; called in a thread.
        load: Loads a model, given its name and folder; called in a thread.
        links_version: Gives something that differs when links may have changed.
    """

    def __init__(
        self,
        given: Sequence[ModelName],
        *,
        find: Callable[[str], Path],
        load: Callable[[str, Path], ServedModel],
        links_version: Callable[[], Awaitable[object]],
    ) -> None:
        self.given = tuple(given)
        self._find, self._load, self._links_version = find, load, links_version
        self._by_name = {each.source: each for each in given} | {each.name: each for each in given}
        self._folders: dict[str, asyncio.Task[Path]] = {}
        self._found_at: object = None
        self._models: LoadingModels[tuple[str, Path]] = LoadingModels()

    async def get(self, name: str) -> ServedModel:
        """The model that a request names, loaded.

        Raises:
            HttpError: 404 where no such name was given, 500 where it cannot be loaded.
        """
        given = self._given(name)
        try:
            key = (given.name, await self._folder(given))
            self._models.retire(other for other in self._models.keys if other[0] == key[0] and other != key)
            return await self._models.get(key, lambda: self._load(*key))
        except (ConjureError, OSError) as error:
            models_log.error("model %s cannot be loaded: %s", given.name, error)
            raise HttpError(
                500,
                f"the model {given.name!r} cannot be loaded; the server's log says why",
                code="model_failed",
            ) from error

    def name_of(self, name: str) -> str:
        """The name that a model is listed by, from any that requests may use.

        Raises:
            HttpError: 404 where it was not given.
        """
        return self._given(name).name

    @property
    def loaded(self) -> dict[str, ServedModel]:
        """Models in memory, by their names."""
        return {model.name: model for model in self._models.loaded}

    def _given(self, name: str) -> ModelName:
        given = self._by_name.get(name)
        if given is None:
            served = ", ".join(each.name for each in self.given)
            raise HttpError(
                404,
                f"there is no model {shown(name)}; available: {served}",
                param="model",
                code="model_not_found",
            )
        return given

    async def _folder(self, given: ModelName) -> Path:
        """Where a model is, as links are now; looked up once for all who ask, which can take long."""
        while True:
            version = await self._links_version()
            if version != self._found_at:
                self._folders.clear()
                self._found_at = version
            task = self._folders.get(given.source)
            if task is None or (task.done() and task.exception() is not None):
                task = asyncio.create_task(in_daemon_thread(self._find, given.source))
                self._folders[given.source] = task
            folder = await asyncio.shield(task)
            if version == self._found_at:
                return folder
