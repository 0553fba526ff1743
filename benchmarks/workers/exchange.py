"""How a worker talks to the benchmark: one JSON task as its argument, one JSON answer as its last line.

Main entries: `task`, `answer`, `decode_and_prefill`. Workers run in two environments, conjure's and the
peers', so nothing here needs more than Python itself. Invariant: what is timed is the same for everybody.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Write = Callable[[Sequence[Any], int], list[float]]
"""Given prompts and a number of new tokens: the moments at which every row had one more, greedily chosen."""

_WARM_UP_TOKENS = 3
_MOST_TIMES, _TIMES_S = 7, 4.0


def task() -> dict[str, Any]:
    """What to do."""
    return json.loads(sys.argv[1])


def answer(**figures: Any) -> None:
    """What came of it."""
    print(json.dumps(figures), flush=True)


def prompts(assigned: dict[str, Any], form: str, rows: int, length: int) -> list[Any]:
    """So many prompts of exactly so many tokens; `form` is ``text`` or ``ids``."""
    made = json.loads(Path(assigned["prompts"]).read_text(encoding="utf-8"))[str(length)]
    return [prompt[form] for prompt in made[:rows]]


def decode_and_prefill(assigned: dict[str, Any], form: str, write: Write) -> dict[str, float]:
    """Tokens per second of every measure in the task: {name: {rows, prompt, new}}.

    With one new token it is a prefill: prompt tokens up to the first new one. With more, decoding is timed
    from the first to the last, so that reading the prompt is no part of it.
    """
    return {name: _speed(assigned, form, write, **work) for name, work in assigned["measures"].items()}


def _speed(assigned: dict[str, Any], form: str, write: Write, *, rows: int, prompt: int, new: int) -> float:
    """The median of a few times the same work: as many as fit into some seconds, and at least one."""
    texts = prompts(assigned, form, rows, prompt)
    write(texts, min(new, _WARM_UP_TOKENS))
    speeds: list[float] = []
    began = time.perf_counter()
    while not speeds or (len(speeds) < _MOST_TIMES and time.perf_counter() - began < _TIMES_S):
        started = time.perf_counter()
        moments = write(texts, new)
        if len(moments) != new:
            raise SystemExit(f"{len(moments)} tokens were written where {new} were asked for")
        tokens = rows * prompt if new == 1 else rows * (new - 1)
        speeds.append(tokens / (moments[-1] - (started if new == 1 else moments[0])))
    return statistics.median(speeds)


class StepTimes:
    """Times of training steps after a warm-up, until there are enough of them.

    Args of the constructor:
        warm_up: Steps not to count.
        most: Steps to count at most.
        seconds: Stop once that much time was counted, and at least one step.
    """

    def __init__(self, *, warm_up: int, most: int, seconds: float) -> None:
        self._left, self._most, self._limit = warm_up, most, seconds
        self._last = self._born = time.perf_counter()
        self.steps: list[float] = []
        self.warm_up_s = 0.0

    def tick(self) -> bool:
        """A step has ended; True when there are enough."""
        now = time.perf_counter()
        if self._left > 0:
            self._left -= 1
            self.warm_up_s = now - self._born
        else:
            self.steps.append(now - self._last)
        self._last = now
        return len(self.steps) >= self._most or (bool(self.steps) and sum(self.steps) >= self._limit)

    @property
    def mean_s(self) -> float:
        """Seconds a step."""
        return sum(self.steps) / len(self.steps)
