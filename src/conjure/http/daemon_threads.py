"""Work that the event loop waits for and the end of the process does not.

Main entries: `in_daemon_thread`, `DaemonThread`. Invariant: a call that does not return, such as a download
that hangs or code of the user's own, keeps no process that was told to end.

`asyncio.to_thread` and executors are for work that is over soon: whoever ends waits for their threads.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def in_daemon_thread(
    function: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs
) -> Result:
    """What a function returns, called in a thread of its own.

    Raises:
        BaseException: What it raises; a `RuntimeError` in place of `StopIteration`.
    """
    call = _Call(lambda: function(*arguments, **named))
    threading.Thread(target=call.run, daemon=True).start()
    return await asyncio.wrap_future(call.future)


class DaemonThread:
    """A thread that makes one call at a time, in the order in which they came.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns; it is not called if who waits has gone before its turn.

        Raises:
            BaseException: What it raises; a `RuntimeError` in place of `StopIteration`.
        """
        call = _Call(lambda: function(*arguments))
        self._calls.put(call)
        return await asyncio.wrap_future(call.future)

    def _run(self) -> None:
        while True:
            self._calls.get().run()


class _Call:
    """A call, and who waits for it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._function = function

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except StopIteration as error:  # no future takes one, and who waits would wait for ever
            stopped = RuntimeError("the call raised StopIteration")
            stopped.__cause__ = error
            self.future.set_exception(stopped)
        except BaseException as error:  # noqa: BLE001 - it is raised where the call is waited for
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
