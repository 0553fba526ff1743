"""Models on their way into memory, each loaded once however many requests want it.

Main entry: `LoadingModels`. Invariant: it belongs to one event loop; a model that could not be loaded is
loaded again for the next who asks.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from conjure.http.daemon_threads import in_daemon_thread
from conjure.http.generation.served_model import ServedModel

Key = TypeVar("Key")


class LoadingModels(Generic[Key]):
    """Models by whatever tells them apart."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[ServedModel]] = {}

    @property
    def keys(self) -> list[Key]:
        """What tells all models apart, the one asked for last at the end."""
        return list(self._tasks)

    @property
    def loaded(self) -> list[ServedModel]:
        """Models in memory."""
        return [task.result() for task in self._tasks.values() if task.done() and task.exception() is None]

    async def get(self, key: Key, load: Callable[[], ServedModel]) -> ServedModel:
        """A model, which `load` loads in a thread unless that has begun; it goes on if who asked has gone.

        Raises:
            Exception: It cannot be loaded.
        """
        task = self._tasks.pop(key, None)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.create_task(in_daemon_thread(load))
        self._tasks[key] = task
        return await asyncio.shield(task)

    def retire(self, keys: Iterable[Key]) -> None:
        """Let go of models; what they are still doing, they finish."""
        for key in keys:
            self._tasks.pop(key).add_done_callback(_retire)


def _retire(task: asyncio.Task[ServedModel]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().retired = True
