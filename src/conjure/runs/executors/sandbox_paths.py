"""Which of this machine's folders a sandboxed run can see, and which it can write to.

Main entry: `sandbox_of`. Invariant: the homes of users, conjure's own home, and the folders through which
processes of this machine talk to each other are hidden; of them only what the run needs is shown.
"""

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from conjure import metric_logging
from conjure.core.home import Home
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.interpreter import Interpreter
from conjure.runs.executors.sandbox import Sandbox, real_folders

# /run and /tmp hold the sockets of services and desktops; /var/tmp and /run/shm are /tmp by other names.
_HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp")  # noqa: S108 - hidden, not used
_UNIX_SOCKETS = Path("/proc/net/unix")
_NAME_SERVERS = "/etc/resolv.conf"  # on many systems a link into /run


def sandbox_of(
    home: Home,
    environment: Environment,
    interpreter: Interpreter,
    variables: Mapping[str, str],
    *,
    writable: Iterable[Path],
    mounted: Iterable[Path],
    network: bool,
) -> Sandbox:
    """What a run's command sees.

    Args:
        environment: What the command runs with.
        interpreter: The Python that the environment is, or stands on.
        variables: The command's own.
        writable: The run's working folder, and what else of it the command writes to.
        mounted: What its read-only mounts link to.
        network: Whether it may reach the network.
    """
    sealed = real_folders([home.local.root, home.root])  # a team's home lies in the local one
    return Sandbox(
        hidden=real_folders([*_HIDDEN, *_home_folders(variables), *sealed]),
        sealed=sealed,
        readable=tuple(
            [
                *_of_environment(environment, interpreter),
                *_listed(variables.get("PATH", "")),
                *_listed(variables.get("PYTHONPATH", "")),
                Path(metric_logging.__file__).parent,  # what `from conjure import log_metric` imports
                *mounted,
                *([Path(_NAME_SERVERS)] if network else []),
            ]
        ),
        writable=tuple(writable),
        sockets=tuple(sorted(_sockets(_UNIX_SOCKETS.read_bytes()))),
        network=network,
    )


def variables_inside(variables: Mapping[str, str], interpreter: Interpreter) -> dict[str, str]:
    """A command's variables as they must be in the sandbox: its /tmp is private, its Python no wrapper."""
    kept = {name: value for name, value in variables.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    if interpreter.found.resolve() != interpreter.executable.resolve():
        folders = kept.get("PATH", "").split(os.pathsep)
        # Before the wrapper, not before an environment that was built.
        wrappers = (at for at, each in enumerate(folders) if Path(each) == interpreter.found.parent)
        folders.insert(next(wrappers, 0), str(interpreter.executable.parent))
        kept["PATH"] = os.pathsep.join(folders)
    return kept


def _sockets(table: bytes) -> set[Path]:
    """The real paths of the sockets in the kernel's table that lie where this process can find them."""
    found = set()
    for line in table.splitlines():
        named = b"".join(line.split(maxsplit=7)[7:])  # most have no name; those with @ are no files
        path = Path(os.path.realpath(os.fsdecode(named)))
        with suppress(OSError):
            if named.startswith(b"/") and stat.S_ISSOCK(path.lstat().st_mode):
                found.add(path)
    return found


def _listed(folders: str) -> list[Path]:
    """The folders of a list such as PATH; relative ones mean another folder in each place."""
    return [Path(folder) for folder in folders.split(os.pathsep) if folder.startswith("/")]


def _home_folders(variables: Mapping[str, str]) -> Iterator[str]:
    for named in (variables.get("HOME"), os.environ.get("HOME")):
        if named:
            yield named
    with suppress(KeyError):  # a user that the system does not know
        yield pwd.getpwuid(os.getuid()).pw_dir


def _of_environment(environment: Environment, interpreter: Interpreter) -> Iterator[Path]:
    if environment.prefix is not None:
        yield environment.prefix
        yield environment.prefix / "bin" / "python"
    yield from (interpreter.prefix, interpreter.base_prefix, interpreter.executable, interpreter.scripts)
    yield from interpreter.site_folders
    yield from interpreter.search_path
