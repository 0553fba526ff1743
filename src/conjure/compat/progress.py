"""How far a script is: steps done, speed, time left, on stderr.

Main entry: `Progress`. Invariant: a terminal has one line that is rewritten; anything else (the log of a run)
gets whole lines, a few a minute.
"""

import sys
import time

from conjure.core.units import format_duration

_REWRITE_EVERY_S, _LINE_EVERY_S = 0.1, 15.0
_CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Progress through a known number of steps.

    Args of the constructor:
        step_word: What one step is called, such as ``token``.
        total: How many there will be.
        tokens_per_step: What its speed is told in.
    """

    def __init__(self, step_word: str, total: int, tokens_per_step: int) -> None:
        self._word, self._total, self._done = step_word, total, 0
        self._tokens_per_step = tokens_per_step
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def advance(self) -> None:
        """Count one more step, and show where things stand unless that was just done."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown < (_REWRITE_EVERY_S if self._terminal else _LINE_EVERY_S):
            return
        self._shown = now
        line = self._line(max(now - self._started, 1e-9))
        sys.stderr.write(f"{_CLEAR_LINE}{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, if there is one."""
        if self._terminal:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()

    def _line(self, seconds: float) -> str:
        left = seconds / self._done * max(0, self._total - self._done)
        return (
            f"{self._word} {self._done:,} of {self._total:,}"
            f" · {self._done * self._tokens_per_step / seconds:,.0f} tokens/s · {format_duration(left)} left"
        )
