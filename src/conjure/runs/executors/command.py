"""A run's command, as its supervisor sees it.

Main entries: `Job`, `Execution`. Invariant: an execution has an `exit` only when nothing of it is left:
every process of it has ended and all they wrote has been read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conjure.errors import ExecutorError
from conjure.runs.environments.containers import StartedContainer
from conjure.runs.executors.sandbox import Sandbox
from conjure.runs.schema.process_facts import Usage

GRACE_S = 30.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class Ranks:
    """How a command is carried out by several processes that work together.

    Attributes:
        count: How many on each node.
        labelled: Whether each line they write is to begin with the number of the process, as ``[1] ``, and
            each is to be given a moment to end when another fails. Commands of conjure's own need neither.
        node: Which of the nodes this is, from 0.
        nodes: How many machines carry out the command, each so many processes.
        address: Of the first node, where the first process is.
    """

    count: int
    labelled: bool = True
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"

    @property
    def total(self) -> int:
        """How many processes there are on all nodes."""
        return self.count * self.nodes

    @property
    def here(self) -> range:
        """The ranks of this node's processes."""
        return range(self.node * self.count, (self.node + 1) * self.count)


@dataclass(frozen=True, slots=True)
class Job:
    """A command, ready to start: its arguments, its folder and its whole environment.

    Attributes:
        arguments: The program and its arguments.
        folder: Where it starts.
        variables: All of its environment variables.
        sandbox: What it may see of the machine; None for all of it.
        container: The container, already started, that it is carried out in; None for none.
        ranks: The processes that are to carry it out together; None for one that knows of no others.
    """

    arguments: tuple[str, ...]
    folder: Path
    variables: Mapping[str, str]
    sandbox: Sandbox | None = None
    container: StartedContainer | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: by its own exit code, or by a signal; and which of its processes, if several.

    Attributes:
        code: Its exit code.
        signal: The signal that ended it.
        message: What else is to be told.
        is_lost: Whether it was ended because one of its nodes is gone.
    """

    code: int | None = None
    signal: int | None = None
    message: str | None = None
    is_lost: bool = False


class NotStartedError(ExecutorError):
    """The command could not be started at all.

    Attributes:
        exit_code: What a shell would answer: 127 if there is no such program, 126 if it cannot be run.
    """

    code = "not_started"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Execution(Protocol):
    """A command being carried out."""

    @property
    def exit(self) -> Exit | None:
        """How it ended, or None while anything of it is left."""
        ...

    def read(self, timeout_s: float) -> list[tuple[str, bytes]]:
        """What it wrote, as (stream, bytes), waiting at most so long; less if there is something."""
        ...

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End it and everything it started."""
        ...

    def usage(self) -> Usage:
        """What it has used of the machine so far."""
        ...
