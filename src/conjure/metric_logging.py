"""Metrics reported by code inside a run.

Main entry: `log_metric`. Invariant: it never raises and never waits for anybody; outside a run it does
nothing. One call is one appended line, so threads and processes may report side by side. It also runs on
older Pythons than the rest of conjure, for a run may have one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from contextlib import suppress
from typing import Any

METRICS_VARIABLE = "CONJURE_METRICS_FILE"
RUN_VARIABLE = "CONJURE_RUN"
OWN_VARIABLES = (METRICS_VARIABLE, RUN_VARIABLE)
NAME_LIMIT = 200
_LARGEST_STEP = 1 << 62
_LOST = (errno.EBADF, errno.ESTALE)  # of a descriptor that leads nowhere any more

_next_steps: dict[str, int] = {}
_warned: set[str] = set()
_file: _File | None = None
_torn = False


def inside_a_run() -> bool:
    """Whether this process is a run's command already: what it does then belongs to that run."""
    return RUN_VARIABLE in os.environ


def log_metric(name: str, value: Any, step: int | None = None) -> None:
    """Add one point to a metric of the run this is called in.

    A value that is not finite is recorded, but left out of summaries and plots; one that is no number is not
    recorded. Each kind of mistake is reported once on stderr, so that a bad number never ends a training run.

    Args:
        name: Of the metric, such as ``loss`` or ``eval/accuracy``.
        value: Anything ``float()`` takes, such as a number, or a tensor or array with one element.
        step: Where on the metric's axis; the step after this metric's last one if not given, first 0.
    """
    path = os.environ.get(METRICS_VARIABLE)
    if not path or not _is_name(name):
        return
    number = _number(name, value)
    place = _step(name, step)
    if number is None or place is None:
        return
    _next_steps[name] = place + 1
    # JSON has no word for what is not finite; stop conditions are told of it by a text.
    shown = repr(number) if math.isfinite(number) else f'"{number}"'
    now = f"{time.time():.6f}"
    _append(path, f'{{"name": {json.dumps(name)}, "step": {place}, "value": {shown}, "time": {now}}}\n')


def _number(name: str, value: Any) -> float | None:
    try:
        number = _float(value)
    except Exception as error:  # noqa: BLE001 - whatever a foreign type's float() raises must not end training
        _warn("value", f"{name!r}: {_shown(value)} is not a number ({error}); the point was left out")
        return None
    if not math.isfinite(number):
        _warn(
            str(number),
            f"{name!r}: {number} is not finite; it is recorded, but left out of summaries and plots",
        )
    return number


def _float(value: Any) -> float:
    try:
        return float(value)
    except TypeError:
        if not hasattr(value, "item"):
            raise
        return float(value.item())  # of an array with one element, which float() refuses since NumPy 2.4


def _step(name: str, step: Any) -> int | None:
    if step is None:
        return _next_steps.get(name, 0)
    try:
        place = int(step)
        if place == step and abs(place) < _LARGEST_STEP:
            return place
    except Exception as error:  # noqa: BLE001 - as above
        _warn("step", f"{name!r}: step {_shown(step)} is not an integer ({error}); the point was left out")
        return None
    _warn("step", f"{name!r}: step {_shown(step)} is not an integer; the point was left out")
    return None


def _is_name(name: Any) -> bool:
    if isinstance(name, str) and 0 < len(name) <= NAME_LIMIT and name.isprintable():
        return True
    _warn("name", f"{_shown(name)} is not a name (1 to {NAME_LIMIT} printable characters); it was left out")
    return False


class _File:
    """The metrics file, opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._identity = self._newest_identity()

    def is_there(self) -> bool:
        """Whether the descriptor still leads to the file.

        The program may close descriptors it does not know, and a file of its own may get the number next.
        """
        try:
            return self._newest_identity() == self._identity
        except OSError:
            return False

    def _newest_identity(self) -> tuple[int, int]:
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino


def _append(path: str, line: str) -> None:
    global _file, _torn
    content = ("\n" * _torn + line).encode()
    file = _file  # another thread may change it
    try:
        if file is None or file.path != path or not file.is_there():
            _file = file = _File(path)  # what the old number leads to by now is not ours to close
        # A disk may just have filled up: then the next line starts anew.
        _torn = os.write(file.descriptor, content) < len(content)
    except OSError as error:
        if error.errno in _LOST:
            _file = None
        _warn(
            "file",
            f"points cannot be written: {error.strerror or error};"
            " they are left out until writing works again",
        )


def _warn(kind: str, message: str) -> None:
    """Say it once per kind of mistake; by no means that could itself raise."""
    if kind in _warned:
        return
    _warned.add(kind)
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed, full or None
        sys.stderr.write(f"conjure: log_metric: {message}\n")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - as above
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
