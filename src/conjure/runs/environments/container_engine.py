"""Podman or docker, which carry out commands in containers.

Main entries: `find_engine`, `require_engine`, `run_engine`. Invariant: a failure is told in the engine's own
words, as one sentence, without credentials.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conjure.core.secrets import redact_text
from conjure.errors import BuildError, UsageError, option

PODMAN, DOCKER = "podman", "docker"
_INIT = "catatonit"
# Where distributions put it for podman alone.
_INIT_FOLDERS = ("/usr/libexec/podman", "/usr/libexec/catatonit", "/usr/lib/podman", "/usr/lib/catatonit")
ENGINE_ERROR = re.compile(r"(docker: )?Error( response from daemon)?: ")  # how an engine's own words begin
_ADVICE = re.compile(r"(See|Run) '?docker .*")  # what docker prints below an error
_OWN_FAILURES = (125, 126, 127)  # what an engine ends with if it could not start a program
_VERSION = {
    PODMAN: ["info", "--format", "{{.Version.Version}}"],
    DOCKER: ["version", "--format", "{{.Server.Version}}"],
}


class Engine(NamedTuple):
    """Podman or docker, as it is installed here.

    Attributes:
        name: Which of the two it is.
        program: Its command line program.
        init: The static program that is every container's first process.
    """

    name: str
    program: str
    init: Path

    @property
    def is_docker(self) -> bool:
        """Whether it is docker, whose containers are started by a daemon, and not by its program."""
        return self.name == DOCKER


def find_engine() -> Engine:
    """Podman, or docker where there is no podman, if all that containers need is installed.

    Raises:
        BuildError: Something is missing.
    """
    if sys.platform != "linux":
        raise BuildError("containers are only supported on Linux")
    init = shutil.which(_INIT) or shutil.which(_INIT, path=os.pathsep.join(_INIT_FOLDERS))
    for name in (PODMAN, DOCKER):
        program = shutil.which(name)
        if program is not None and init is not None:
            return Engine(name, program, Path(init))
        if program is not None:
            raise BuildError(f"{_INIT} is not installed", hint=f"install the package {_INIT}")
    raise BuildError(
        "neither podman nor docker is installed",
        hint="install the packages podman and catatonit" if init is None else "install the package podman",
    )


def require_engine() -> None:
    """Make sure that commands can be carried out in containers here.

    Raises:
        UsageError: They cannot; the message says why.
    """
    try:
        find_engine()
    except BuildError as error:
        raise UsageError(
            f"{option('image')}: {error.unspelled.message}", hint=error.unspelled.hint
        ) from error


def engine_version() -> str:
    """The engine and its version; asking for it finds out whether it works at all.

    Raises:
        BuildError: It is missing, or cannot be used by this user.
    """
    name = find_engine().name
    return f"{name} {run_engine(_VERSION[name]).strip()}"


def run_engine(
    arguments: Sequence[str],
    *,
    name: str | None = None,
    report: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
    explain: Callable[[Sequence[str]], str] | None = None,
) -> str:
    """Run the engine's program to its end, and give what it printed.

    Args:
        arguments: The subcommand and its options.
        name: Which engine; the one that runs use if None.
        report: Gets each line of progress, if it is wanted.
        variables: The whole environment of the process; this one's own if None.
        explain: Says in one sentence what failed, from the lines of a program that the engine carried out;
            by default it is the engine's own error.

    Raises:
        BuildError: It failed.
    """
    printed, lines = [], []
    name, program = _program_of(name)
    with subprocess.Popen(
        [program, *arguments],
        env=None if variables is None else dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if report is None else subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        try:
            if report is None:
                out, told = process.communicate()
                printed, lines = [out.decode(errors="replace")], told.decode(errors="replace").splitlines()
            else:
                for line in process.stdout:
                    lines.append(redact_text(_last_state(line)))
                    if lines[-1] and not ENGINE_ERROR.match(lines[-1]):
                        report(lines[-1])
        except BaseException:  # a run that is stopped meanwhile
            process.kill()
            raise
    if process.returncode != 0:
        if explain is not None and process.returncode not in _OWN_FAILURES:
            raise BuildError(explain(lines))
        raise BuildError(f"{name} failed: {explain_failure(lines)}")
    return "".join(printed)


def _program_of(name: str | None) -> tuple[str, str]:
    """An engine and its program."""
    if name is None:
        engine = find_engine()
        return engine.name, engine.program
    program = shutil.which(name)
    if program is None:
        raise BuildError(f"{name} is not installed")
    return name, program


def _last_state(line: bytes) -> str:
    """A line as it stands on a terminal in the end, where progress is written over by carriage returns."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def explain_failure(lines: Sequence[str]) -> str:
    """The engine's error, which is its last line but for advice."""
    told = (line for line in reversed(lines) if line.strip() and not _ADVICE.match(line))
    return redact_text(ENGINE_ERROR.sub("", next(told, "it printed no message"), count=1))
