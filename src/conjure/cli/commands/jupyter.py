"""`conjure jupyter`: JupyterLab as a run, its notebooks and files the run's outputs.

Main entry: `command`. Invariant: the token that opens it is printed and put into the run's variables, where
it counts as a secret; it is stored nowhere, but for the minute in which a browser may open it.
"""

import http.client
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from conjure.cli.render import interrupt_detaches
from conjure.cli.run_options import run_options, run_spec
from conjure.cli.run_view import RunView
from conjure.cli.submit_and_follow import follow_submission
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.units import parse_duration
from conjure.errors import UsageError
from conjure.http.browser import open_in_browser
from conjure.runs.environments.interpreter import find_current
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import Submission, submit
from conjure.runs.schema.spec import RunSpec, current_folder

KIND = "jupyter"
_PACKAGE = "jupyterlab"
_HOST = "127.0.0.1"
_TOKEN = "JUPYTER_TOKEN"  # noqa: S105 - the name of the variable that JupyterLab reads it from
_CHECKPOINTS = ".ipynb_checkpoints/"  # its own copies of notebooks
_SOCKETS, _LISTENS = Path("/proc/net/tcp"), "0A"
_LOOK_EVERY_S = 0.2
_PATIENCE_S = 2.0
_ROOT_USER = 0
_NO_CONTAINER, _HERE = "it runs outside containers", "it is one process on this machine"
# Options of `conjure run` that are refused, because no browser could reach the JupyterLab, and why.
_UNSUPPORTED = {
    **dict.fromkeys(("image", "apt"), _NO_CONTAINER),
    **dict.fromkeys(("distributed", "nodes", "on"), _HERE),
}


def _without_unsupported(command: click.Command) -> click.Command:
    """Leave out of the help what is refused anyway."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name in _UNSUPPORTED:
            parameter.hidden = True
    return command


@_without_unsupported
@click.command
@run_options
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: a free one.")
@click.option(
    "--idle-timeout",
    default="12h",
    show_default=True,
    metavar="TIME",
    help="Shut down kernels that are idle for this long, and end the run if none is open for this long.",
)
@click.option("--open/--no-open", "opens", default=True, help="Open the address in a browser.")
@click.option("-b", "--background", is_flag=True, help="Return when JupyterLab is ready.")
def command(*, port: int | None, idle_timeout: str, opens: bool, background: bool, **options: Any) -> int:
    """Run JupyterLab in a copy of the current folder.

    Its address is printed when it is ready. New and changed notebooks and files are saved as outputs of the
    run when it ends: with File > Shut Down, `conjure stop N` or the idle timeout. ^C only stops following it.
    """
    home = Home.from_environment()
    if options["sandbox"] and not options["network"]:
        raise UsageError("a sandbox without network cannot be reached by a browser", fix="--network")
    for name, why in _UNSUPPORTED.items():
        if options[name] not in (None, ()):
            raise UsageError(f"conjure jupyter does not support --{name}: {why}")
    server = _Server(home, port or _free_port(), secrets.token_hex(24))
    spec = _spec(home, options, server, parse_duration(idle_timeout))
    waiting = threading.Thread(target=server.announce, args=(opens,), daemon=True)

    def make(announce: Callable[[int], None]) -> Submission:
        made = submit(home, spec, announce=announce)
        server.run = made.record.number
        if not background:
            waiting.start()
        return made

    status = follow_submission(home, make, background=background, as_json=False)
    with interrupt_detaches(server.what_continues):
        if background and not server.announce(opens):
            return 1
    return status


def _spec(home: Home, options: dict[str, Any], server: "_Server", idle_s: float) -> RunSpec:
    words = [
        "jupyter-lab",
        "--no-browser",
        f"--ip={_HOST}",
        f"--port={server.port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.shutdown_no_activity_timeout={idle_s:.0f}",
        f"--MappingKernelManager.cull_idle_timeout={idle_s:.0f}",
        "--MappingKernelManager.cull_connected=True",  # a forgotten page keeps its kernel connected
        "--log-level=WARN",
        *(["--allow-root"] if os.geteuid() == _ROOT_USER else []),
    ]
    pip = options["pip"] if _has_jupyterlab(home, options) else (*options["pip"], _PACKAGE)
    given = {**options, "command": tuple(words), "pip": pip}
    spec = run_spec(home, given, {})
    return replace(
        spec,
        kind=KIND,
        variables={**spec.variables, _TOKEN: server.token},
        no_output=(*spec.no_output, _CHECKPOINTS),
    )


def _has_jupyterlab(home: Home, options: dict[str, Any]) -> bool:
    """Whether the environment of the run has JupyterLab without our adding it."""
    if options["base"] != "current" and not options["deps_from_env"]:
        return False
    return _PACKAGE in find_current(home, os.environ, current_folder()).versions


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as server:
        return server.getsockname()[1]


def _is_listener_ours(port: int) -> bool:
    """Whether this user has the server at a port: whoever else has it first must not be told the token.

    It is taken for ours where the system does not say.
    """
    place = f"{int.from_bytes(socket.inet_aton(_HOST), sys.byteorder):08X}:{port:04X}"
    try:
        lines = _SOCKETS.read_text().splitlines()[1:]
    except OSError:
        return True
    found = (line.split() for line in lines)
    ours = [place, _LISTENS, str(os.geteuid())]
    return any([fields[1], fields[3], fields[7]] == ours for fields in found)


@dataclass(slots=True)
class _Server:
    """The JupyterLab of a run.

    Attributes:
        port: Where it listens.
        token: What lets somebody in.
        run: The run's number, once it has one.
    """

    home: Home
    port: int
    token: str
    run: int = 0

    def announce(self, opens: bool) -> bool:
        """Wait until it answers, then print its address; False if the run ended before."""
        while not self._answers():
            if self._has_ended():
                return False
            time.sleep(_LOOK_EVERY_S)
        address = f"http://{_HOST}:{self.port}/lab?token={self.token}"
        view = RunView()
        view.say("✨", f"JupyterLab: {address}")
        view.say("✨", f"Save its files and end it: {with_home(f'conjure stop {self.run}')}")
        if opens and sys.stdout.isatty():
            open_in_browser(address)
        return True

    def what_continues(self) -> list[str]:
        """What to say to who does not wait for it."""
        stop = with_home(f"conjure stop {self.run}")
        return [f"Run {self.run} continues in the background; save its files and end it: {stop}"]

    def _answers(self) -> bool:
        """Whether it lets us in: another server of ours at this port would not, and no other is asked."""
        if not _is_listener_ours(self.port):
            return False
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/api/status", headers={"Authorization": f"token {self.token}"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _has_ended(self) -> bool:
        with open_store(self.home) as store:
            return store.get(self.run).status.is_final
