"""The container of a run: which of the machine's files it has, and the podman command lines around it.

A container is started with nothing to do, and the run's command is then carried out in it: so the command is
not its first process, and signals, exit statuses and processes left behind are as without a container. What a
run adds to its image is installed in such a container too, before.

Main entries: `Container`, `start_container`, `exec_arguments`, `run_in_container`, `remove_container`.
Invariant: from before a container is made until after it is removed a file in the run's folder says so;
whoever closes the run of a supervisor that died removes it.
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.errors import BuildError
from conjure.runs.environments.container_engine import find_engine, run_engine
from conjure.runs.host.process import Process, user_namespace
from conjure.runs.schema.run_folder import RunFolder

# In memory, as what stands there is in no image that is made of a container.
_INIT = "/dev/conjure-init"
_KEEPER = "catatonit"
# Podman removes no container whose processes were killed beside it before it has seen that itself.
_REMOVAL_PAUSES_S = (0.1, 0.3, 1.0, 0.0)
_HAND_PIPES_ON = 'exec "$@" 3>&1 4>&2'
_WRITE_TO_PIPES = 'exec "$@" >&3 2>&4 3>&- 4>&-'
# Variables that podman itself goes by: in its own environment they must stay the caller's.
_OF_PODMAN = re.compile(
    r"PATH|HOME|USER|TMPDIR|(XDG|CONTAINERS?|PODMAN|BUILDAH|REGISTRY|DBUS|LD|STORAGE)_\w*"
)


class BindMount(NamedTuple):
    """A file or folder of this machine that is in the container too, at a path of its own."""

    source: Path
    target: Path
    read_only: bool = False

    @property
    def words(self) -> list[str]:
        """Podman's option for it."""
        fields = ["type=bind", f"source={self.source}", f"destination={self.target}"]
        return ["--mount", ",".join([*fields, *(["ro"] if self.read_only else [])])]


class Container(NamedTuple):
    """A container that is to be started.

    Attributes:
        name: Its name.
        image: Digest of its image.
        bound: What it has of this machine's files.
        variables: What it is given beside the variables that the image sets.
        with_proxies: Whether it is given the caller's variables that name proxies.
    """

    name: str
    image: str
    bound: tuple[BindMount, ...]
    variables: Mapping[str, str]
    with_proxies: bool = True


def container_name(home: Home, number: int) -> str:
    """The name of a run's container."""
    return f"conjure-{sha256_bytes(os.fsencode(home.root.resolve()))[:12]}-{number}"


def start_container(container: Container, marker: Path) -> None:
    """Start a container with nothing to do.

    The network, shared memory and limits are the machine's own. Its user is root, which is the caller's own
    user on this machine.

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
    init = BindMount(find_engine().init, Path(_INIT), read_only=True)
    words, inherited = _split(container.variables)
    run_engine(
        [
            *("run", "--detach", "--replace", "--pull=never", "--log-driver=none", "--user=0:0"),
            *("--network=host", "--ipc=host", "--pids-limit=-1", "--security-opt=label=disable"),
            *(() if container.with_proxies else ("--http-proxy=false",)),
            *("--name", container.name, "--workdir=/", "--entrypoint", f'["{_INIT}", "-P"]'),
            *(word for bound in (init, *container.bound) for word in bound.words),
            *words,
            container.image,
        ],
        variables={**os.environ, **inherited},
    )


def keeps_containers(process: Process) -> bool:
    """Whether a process is the one that podman keeps for all containers of an ordinary user.

    Whichever podman needs it first starts it, so it may be a descendant of a run, but it is not the run's.
    """
    return process.name == _KEEPER and user_namespace(process.pid) not in (None, user_namespace(os.getpid()))


def _split(variables: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Podman's options for variables, and those whose values it takes from its own environment.

    Other users see command lines, so values stand there only where podman's environment cannot hold them.
    """
    words, inherited = [], {}
    for name, value in variables.items():
        if _OF_PODMAN.fullmatch(name):
            words.append(f"--env={name}={value}")
        else:
            words.append(f"--env={name}")
            inherited[name] = value
    return words, inherited


def exec_arguments(name: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that carries out a command in a container that was started.

    The command writes to the pipes that podman itself was given, and not to podman: podman would end with the
    command, and what the command leaves running could write no more.
    """
    podman = [find_engine().program, "exec", "--preserve-fds=2", "--workdir", str(folder), name]
    inside = ["/bin/sh", "-c", _WRITE_TO_PIPES, "sh", *arguments]
    return ["/bin/sh", "-c", _HAND_PIPES_ON, "sh", *podman, *inside]


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
    words, inherited = _split(variables)
    return run_engine(
        ["exec", *words, name, *arguments],
        report=report,
        variables={**os.environ, **inherited},
        explain=explain,
    )


def remove_container(home: Home, number: int) -> None:
    """Remove the container of a run, with all processes in it, if there may be one."""
    marker = RunFolder.of(home, number).container
    if not marker.exists():
        return
    command = ["rm", "--force", "--time=0", "--ignore", "--volumes", container_name(home, number)]
    for pause_s in _REMOVAL_PAUSES_S:
        with suppress(BuildError, OSError):
            run_engine(command)
            marker.unlink(missing_ok=True)
            return
        time.sleep(pause_s)
