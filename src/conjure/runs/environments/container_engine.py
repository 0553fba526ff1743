"""Podman, which carries out commands in containers.

Main entries: `find_engine`, `require_engine`, `run_engine`. Invariant: a failure is told in podman's own
words, as one sentence, without credentials.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conjure.core.secrets import redact_text
from conjure.errors import BuildError, UsageError, option

_PODMAN = "podman"
_INIT = "catatonit"
# Where distributions put it for podman alone.
_INIT_FOLDERS = ("/usr/libexec/podman", "/usr/libexec/catatonit", "/usr/lib/podman", "/usr/lib/catatonit")
_ERROR = "Error: "
_OWN_FAILURES = (125, 126, 127)  # what podman ends with if it could not start a program


class Engine(NamedTuple):
    """Podman as it is installed here.

    Attributes:
        program: Podman itself.
        init: The static program that is every container's first process.
    """

    program: str
    init: Path


def find_engine() -> Engine:
    """Podman, if all that containers need is installed.

    Raises:
        BuildError: Something is missing.
    """
    if sys.platform != "linux":
        raise BuildError("containers are only supported on Linux")
    program = shutil.which(_PODMAN)
    init = shutil.which(_INIT) or shutil.which(_INIT, path=os.pathsep.join(_INIT_FOLDERS))
    missing = [name for name, found in ((_PODMAN, program), (_INIT, init)) if found is None]
    if program is None or init is None:
        raise BuildError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"install the package{'' if len(missing) == 1 else 's'} {' and '.join(missing)}",
        )
    return Engine(program, Path(init))


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
    """The version of podman; asking for it finds out whether it works at all.

    Raises:
        BuildError: It is missing, or cannot be used by this user.
    """
    return run_engine(["info", "--format", "{{.Version.Version}}"]).strip()


def run_engine(
    arguments: Sequence[str],
    *,
    report: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
    explain: Callable[[Sequence[str]], str] | None = None,
) -> str:
    """Run podman to its end, and give what it printed.

    Args:
        arguments: The subcommand and its options.
        report: Gets each line of progress, if it is wanted.
        variables: The whole environment of the process; this one's own if None.
        explain: Says in one sentence what failed, from the lines of a program that podman carried out; by
            default it is podman's own error.

    Raises:
        BuildError: It failed.
    """
    printed, lines = [], []
    with subprocess.Popen(
        [find_engine().program, *arguments],
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
                    if lines[-1] and not lines[-1].startswith(_ERROR):
                        report(lines[-1])
        except BaseException:  # a run that is stopped meanwhile
            process.kill()
            raise
    if process.returncode != 0:
        if explain is not None and process.returncode not in _OWN_FAILURES:
            raise BuildError(explain(lines))
        raise BuildError(f"podman failed: {_explained(lines)}")
    return "".join(printed)


def _last_state(line: bytes) -> str:
    """A line as it stands on a terminal in the end, where progress is written over by carriage returns."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def _explained(lines: Sequence[str]) -> str:
    """Podman's error, which is its last line."""
    last = next((line for line in reversed(lines) if line.strip()), "it printed no message")
    return redact_text(last.removeprefix(_ERROR))
