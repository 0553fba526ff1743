"""Which model a name means, while links change."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

from conjure.http.generation.model_registry import ModelName, ModelRegistry


def test_a_link_that_moves_while_it_is_looked_up_is_looked_up_again():
    version, begun, may_go_on = [0], threading.Event(), threading.Event()

    def find(source):
        if version[0]:
            return Path("new")
        begun.set()
        assert may_go_on.wait(30)
        return Path("old")

    def load(name, folder):
        return SimpleNamespace(name=name, folder=folder, retired=False)

    async def links_version():
        return version[0]

    async def ask():
        registry = ModelRegistry(
            [ModelName("jokes", "jokes")], find=find, load=load, links_version=links_version
        )
        first = asyncio.create_task(registry.get("jokes"))
        assert await asyncio.to_thread(begun.wait, 30)
        version[0] = 1
        second = await registry.get("jokes")
        may_go_on.set()
        assert await first is second
        assert second.folder == Path("new")
        assert not second.retired

    asyncio.run(ask())
