"""Runs one worker as a process of its own, and tells how it went; and what all that start processes need.

Main entries: `run`, `variables`, `environment`. Invariant: a worker that fails, hangs or is killed gives a
reason, never an exception from somewhere deep.
"""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LIMIT_S = 900
REASON_CHARACTERS = 200


class WorkerError(Exception):
    """A worker gave no answer; the message says why, in a line."""


@dataclass(frozen=True)
class Outcome:
    """What a worker did.

    Attributes:
        output: All it wrote to stdout.
        first_output_s: Seconds from its start to the first byte of that.
        seconds: From its start to its end.
        peak_bytes: The most memory it held.
    """

    output: str
    first_output_s: float
    seconds: float
    peak_bytes: int


def run(command: list[str], variables: dict[str, str], limit_s: float = _LIMIT_S) -> Outcome:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        variables: Environment variables besides those that are there.
        limit_s: Seconds after which it is killed.

    Raises:
        WorkerError: It ended with anything but 0.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )
        assert process.stdout is not None
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            first = process.stdout.read(1)
            first_output_s = time.perf_counter() - started
            rest = process.stdout.read() if first else b""
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
            process.stdout.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            errors.seek(0)
            raise WorkerError(_reason(process.returncode, errors.read(), seconds, limit_s))
    output = (first + rest).decode(errors="replace")
    return Outcome(output, first_output_s, seconds, usage.ru_maxrss * 1024)


def _reason(code: int, errors: str, seconds: float, limit_s: float) -> str:
    if code == -signal.SIGKILL and seconds >= limit_s:
        return f"took over {limit_s:.0f} s"
    last = last_line(errors)[:REASON_CHARACTERS]
    return f"{signal.Signals(-code).name}: {last}" if code < 0 else last


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for another one, with more variables."""
    # Modules are compiled once and kept, as they are for anybody who does not forbid it.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **more}


def variables(threads: int, home: Path) -> dict[str, str]:
    """What every worker finds in its environment."""
    return {
        "CONJURE_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": "",
        "TOKENIZERS_PARALLELISM": "true",
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
