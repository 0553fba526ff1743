"""Commands that a test starts and looks after as a supervisor does."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conjure.runs.executors.command import Execution, Job
from conjure.runs.host.process import descendants
from conjure.runs.host.process_control import adopt_orphans
from conjure.runs.telemetry.logs import STDERR, STDOUT


@contextmanager
def supervising() -> Iterator[Callable[[Callable[..., Any], Job], Any]]:
    """What starts a job, by `start_command` or another; all that it started ends with the block.

    Orphans come to this process, but those of other tests are spared.
    """
    adopt_orphans()
    others = {process.pid for process in descendants(os.getpid())}
    started: list[Execution] = []

    def begin(start: Callable[..., Any], job: Job) -> Any:
        started.append(start(job, lambda process: process.pid in others))
        return started[-1]

    yield begin
    for execution in started:
        while execution.exit is None:
            execution.kill()
            execution.read(0.1)


def read_to_end(execution: Execution) -> dict[str, bytes]:
    """All that a command wrote until it ended, by stream."""
    written = {STDOUT: b"", STDERR: b""}
    while execution.exit is None:
        for stream, data in execution.read(0.1):
            written[stream] += data
    return written
