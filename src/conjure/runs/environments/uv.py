"""Running uv, which makes environments and installs packages.

Main entry: `run_uv`. Invariant: a failure is told in uv's own words, as one sentence, without credentials.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from conjure.core.secrets import redact_text
from conjure.errors import BuildError
from conjure.installation import pip_install

# Marks uv puts before its words, of this version and of earlier ones.
_DECORATION = ("error:", "cause:", "Caused by:", "×", "╰─▶", "├─▶", "│", "help:", "hint:")
_BUILD_OUTPUT = ("[stderr]", "[stdout]")
_ADVICE = ("help:", "hint:")


@cache
def uv_program() -> str:
    """Where the uv program is: the one that is installed beside conjure, else the one on PATH.

    Raises:
        BuildError: It is not installed.
    """
    with suppress(ImportError, FileNotFoundError):
        import uv  # only a run that builds an environment needs it

        return uv.find_uv_bin()
    found = shutil.which("uv")
    if found is None:
        raise BuildError("uv is not installed; conjure needs it to build environments", fix=pip_install("uv"))
    return found


def run_uv(
    arguments: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    """Run uv to its end.

    Args:
        arguments: The subcommand and its options.
        folder: Where to run it; no settings files are read.
        variables: The whole environment of the process.
        report: Gets each line of progress.

    Raises:
        BuildError: uv failed.
    """
    lines, has_failed = [], False
    with subprocess.Popen(
        [uv_program(), "--no-config", "--no-progress", "--color", "never", *arguments],
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                lines.append(redact_text(line.rstrip()))
                has_failed = has_failed or _is_start(lines[-1])
                # Errors are raised; and the path of what is being built is a temporary one.
                if not has_failed and not lines[-1].startswith("Using Python"):
                    report(lines[-1].strip())
        except BaseException:  # a run that is stopped while it is being built
            process.kill()
            raise
    if process.returncode != 0:
        raise BuildError(f"the environment could not be built: {explain(lines)}")


def explain(lines: Sequence[str]) -> str:
    """Uv's error as one sentence: its words without marks, line breaks and advice about uv."""
    start = next((place for place, line in enumerate(lines) if _is_start(line)), max(len(lines) - 3, 0))
    lines = _without_traceback(lines[start:])
    sentence = ""
    for line in lines:
        text = line.strip()
        if text.startswith(_ADVICE):
            break
        for mark in _DECORATION:
            text = text.removeprefix(mark).strip()
        is_cause = text != line.strip()
        if text.strip("^~ "):
            sentence = f"{sentence.rstrip(':')}: {text}" if is_cause else f"{sentence} {text}"
    return sentence.strip(": ") or "uv printed no message"


def _without_traceback(lines: Sequence[str]) -> list[str]:
    """Of what a package's own build said, only the last line: the exception."""
    said = next((place for place, line in enumerate(lines) if line.strip() in _BUILD_OUTPUT), None)
    if said is None:
        return list(lines)
    end = next((place for place, line in enumerate(lines) if line.strip().startswith(_ADVICE)), len(lines))
    last = [line for line in lines[said + 1 : end] if line.strip()][-1:]
    return [*lines[:said], *(f"cause: {line.strip()}" for line in last)]


def _is_start(line: str) -> bool:
    return line.strip().startswith(("error:", "×"))
