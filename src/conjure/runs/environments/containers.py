"""The container of a run: which of the machine's files it has, and the engine's command lines around it.

A container is started with nothing to do, and the run's command is then carried out in it: so the command is
not its first process, and signals, exit statuses and processes left behind are as without a container. What a
run adds to its image is installed in such a container too, before.

Main entries: `Container`, `start_container`, `exec_arguments`, `run_in_container`, `container_parent`,
`remove_container`.
Invariant: from before a container is made until after it is removed a file in the run's folder says so;
whoever closes the run of a supervisor that died removes it.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.errors import BuildError
from conjure.runs.environments.container_engine import Engine, find_engine, run_engine
from conjure.runs.host.process import Process, find_process, user_namespace
from conjure.runs.schema.run_folder import RunFolder

# In memory, as what stands there is in no image that is made of a container.
_INIT = "/dev/conjure-init"
_PIPES = ("/dev/conjure-stdout", "/dev/conjure-stderr")
_KEEPER = "catatonit"
_MESSAGE_QUEUES = Path("/dev/mqueue")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# An engine removes no container whose processes were killed beside it before it has seen that itself.
_REMOVAL_PAUSES_S = (0.1, 0.3, 1.0, 0.0)
_WRITE_TO_PIPES = f'exec "$@" > {_PIPES[0]} 2> {_PIPES[1]}'
# Variables that an engine itself goes by: in its own environment they must stay the caller's. A container has
# them under other names, and the shell that starts the command gives them their own.
_OF_ENGINE = re.compile(
    r"PATH|HOME|USER|TMPDIR|(XDG|CONTAINERS?|PODMAN|BUILDAH|REGISTRY|DBUS|LD|STORAGE|DOCKER)_\w*", re.ASCII
)
_RENAMED = "CONJURE_AS_"
# How docker says that the files of its containers' root are not root's, and not the caller's either.
_OTHER_USERS = ("rootless", "userns")
_NO_CONTAINER = "No such container"


class BindMount(NamedTuple):
    """A file or folder of this machine that is in the container too, at a path of its own."""

    source: Path
    target: Path
    read_only: bool = False

    @property
    def words(self) -> list[str]:
        """The engine's option for it."""
        fields = ["type=bind", f"source={self.source}", f"destination={self.target}"]
        return ["--mount", ",".join([*fields, *(["ro"] if self.read_only else [])])]


class Container(NamedTuple):
    """A container that is to be started.

    Attributes:
        name: Its name.
        image: Digest of its image.
        bound: What it has of this machine's files.
        variables: What it is given beside the variables that the image sets.
        for_build: Whether packages are installed in it: then it is root's, and is not given the caller's
            variables that name proxies.
    """

    name: str
    image: str
    bound: tuple[BindMount, ...]
    variables: Mapping[str, str]
    for_build: bool = False


def container_name(home: Home, number: int) -> str:
    """The name of a run's container."""
    return f"conjure-{sha256_bytes(os.fsencode(home.root.resolve()))[:12]}-{number}"


def start_container(container: Container, marker: Path) -> None:
    """Start a container with nothing to do.

    The network, shared memory and limits are the machine's own. What it makes is the caller's: of podman's
    containers root is the caller's own user on this machine, and docker's are given the caller's number.

    Args:
        container: What it is to be.
        marker: The file that says that there may be a container.

    Raises:
        BuildError: It cannot be started.
        OSError: The marker cannot be written.
    """
    for bound in container.bound:
        if "," in f"{bound.source}{bound.target}":
            raise BuildError(f"{bound.source} cannot be mounted in a container: its path has a comma")
    marker.touch(0o600)
    engine = find_engine()
    init = BindMount(engine.init, Path(_INIT), read_only=True)
    proxies = proxies_in(os.environ)
    inherited = _inherited({**({} if container.for_build else proxies), **container.variables})
    run_engine(
        [
            *(
                "run",
                "--detach",
                "--pull=never",
                "--log-driver=none",
                "--network=host",
                *_shared_memory(engine),
            ),
            *("--pids-limit=-1", "--security-opt=label=disable", *_of_engine(engine, container)),
            *("--name", container.name, "--workdir=/", "--entrypoint", _INIT),
            *(word for bound in (init, *container.bound) for word in bound.words),
            *_options(inherited),
            container.image,
            "-P",
        ],
        variables={**{name: os.environ[name] for name in os.environ.keys() - proxies.keys()}, **inherited},
    )


def _of_engine(engine: Engine, container: Container) -> list[str]:
    """What the one engine is told that the other is not.

    Raises:
        BuildError: Docker runs containers in a way that is not supported.
    """
    if not engine.is_docker:
        return ["--replace", "--http-proxy=false", "--user=0:0"]
    options = run_engine(["info", "--format", "{{json .SecurityOptions}}"])
    if any(f"name={name}" in option for option in json.loads(options) or () for name in _OTHER_USERS):
        raise BuildError(
            "docker runs containers as other users here (rootless mode or userns-remap), which is not"
            " supported",
            hint="install the package podman",
        )
    _remove(container.name)
    if not container.for_build:
        return [f"--user={os.getuid()}:{os.getgid()}"]
    # Docker's own configuration may name proxies: variables without a value keep them away.
    return ["--user=0:0", *_options(name for each in _PROXIES for name in (each, each.upper()))]


def _shared_memory(engine: Engine) -> list[str]:
    """The option for the machine's own shared memory."""
    if engine.is_docker or os.getuid() == 0 or _MESSAGE_QUEUES.exists():
        return ["--ipc=host"]
    # Podman would look for message queues too, and an ordinary user cannot make any available.
    return BindMount(Path("/dev/shm"), Path("/dev/shm")).words  # noqa: S108 - meant


def proxies_in(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that name proxies."""
    return {name: value for name, value in variables.items() if name.lower() in _PROXIES}


class OutputPipes(NamedTuple):
    """Named pipes for what a command in a container writes.

    They are the command's own: the engine's would end with the command, and what the command leaves running
    could write no more.
    """

    stdout: Path
    stderr: Path

    @classmethod
    def beside(cls, marker: Path) -> "OutputPipes":
        """Those of the container that a marker stands for."""
        return cls(marker.with_name(f"{marker.name}.stdout"), marker.with_name(f"{marker.name}.stderr"))

    @property
    def bound(self) -> tuple[BindMount, ...]:
        """How the container has them."""
        return tuple(BindMount(here, Path(there)) for here, there in zip(self, _PIPES, strict=True))

    def make(self) -> None:
        """Make them, anew if there are some.

        Raises:
            OSError: They cannot be made.
        """
        self.remove()
        for path in self:
            os.mkfifo(path, 0o600)

    def remove(self) -> None:
        """Remove them if they are there."""
        for path in self:
            path.unlink(missing_ok=True)


class StartedContainer(NamedTuple):
    """A container that a command can be carried out in: its name, and what the command writes to."""

    name: str
    pipes: OutputPipes


def container_parent(name: str) -> int | None:
    """The process outside that starts what is carried out in a container; None if it is below this one.

    Raises:
        BuildError: There is no such container.
    """
    if not find_engine().is_docker:
        return None
    first = find_process(int(run_engine(["inspect", "--format", "{{.State.Pid}}", name])))
    if first is None:
        raise BuildError(f"container {name} has ended")
    return first.parent


def keeps_containers(process: Process) -> bool:
    """Whether a process is the one that podman keeps for all containers of an ordinary user.

    Whichever podman needs it first starts it, so it may be a descendant of a run, but it is not the run's.
    """
    return process.name == _KEEPER and user_namespace(process.pid) not in (None, user_namespace(os.getpid()))


def _inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables of a container as the engine can take them from its own environment.

    Other users see command lines, so no value stands there.
    """
    return {
        f"{_RENAMED}{name}" if _OF_ENGINE.fullmatch(name) else name: value
        for name, value in variables.items()
    }


def _options(variables: Iterable[str]) -> list[str]:
    """The engine's options for variables whose values it takes from its own environment."""
    return [f"--env={name}" for name in variables]


def exec_arguments(
    name: str, folder: Path, arguments: Sequence[str], variables: Iterable[str] = ()
) -> list[str]:
    """The command line that carries out a command in a container that has `OutputPipes`.

    Args:
        name: Of the container.
        folder: Where the command starts.
        arguments: The command.
        variables: Names of the variables that the container was given.
    """
    renamed = filter(_OF_ENGINE.fullmatch, variables)
    own_names = [f'export {each}="${_RENAMED}{each}"; unset {_RENAMED}{each}; ' for each in renamed]
    inside = ["/bin/sh", "-c", "".join([*own_names, _WRITE_TO_PIPES]), "sh", *arguments]
    return [find_engine().program, "exec", "--workdir", str(folder), name, *inside]


def run_in_container(
    name: str,
    arguments: Sequence[str],
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
    report: Callable[[str], None] | None = None,
    explain: Callable[[Sequence[str]], str] | None = None,
) -> str:
    """Carry out a program to its end in a container that was started, and give what it printed.

    Args:
        name: Of the container.
        arguments: The program and its arguments.
        variables: What it is given beside the container's own variables.
        report: Gets each line that it prints.
        explain: Says in one sentence what failed, from these lines.

    Raises:
        BuildError: It failed.
    """
    return run_engine(
        ["exec", *_options(variables), name, *arguments],
        report=report,
        variables={**os.environ, **variables},
        explain=explain,
    )


def remove_container(home: Home, number: int) -> None:
    """Remove the container of a run, with all processes in it, if there may be one."""
    marker = RunFolder.of(home, number).container
    if not marker.exists():
        return
    for pause_s in _REMOVAL_PAUSES_S:
        with suppress(BuildError, OSError):
            _remove(container_name(home, number))
            OutputPipes.beside(marker).remove()
            marker.unlink(missing_ok=True)
            return
        time.sleep(pause_s)


def _remove(name: str) -> None:
    """Remove a container, if it is there.

    Raises:
        BuildError: It cannot be removed.
    """
    at_once = () if find_engine().is_docker else ("--time=0", "--ignore")
    try:
        run_engine(["rm", "--force", "--volumes", *at_once, name])
    except BuildError as error:
        if _NO_CONTAINER not in error.unspelled.message:
            raise
