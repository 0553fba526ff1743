"""An engine without a model, for tests of everything around the model."""

import itertools
from collections.abc import Sequence

import numpy as np

from conjure.lm.generation.engines.base import PIECE, RowQueue, refuse_unreadable
from conjure.lm.text.tokenizer import Tokenizer


class ScriptedEngine:
    """Says its scripts and ends, whatever it reads: row number n gets script n, from the first again.

    Attributes:
        rows_per_step: How many rows were computed in each step so far.
    """

    context_length = 1000
    bytes_per_token = 1

    def __init__(self, tokenizer: Tokenizer, *scripts: list[int]) -> None:
        self.scripts = [[*script, tokenizer.end_of_text_id] for script in scripts]
        self.vocab_size = tokenizer.vocab_size
        self.rows_per_step: list[int] = []

    def session(self) -> "ScriptedSession":
        return ScriptedSession(self)


class ScriptedSession:
    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._queues: dict[int, RowQueue] = {}
        self._scripts: dict[int, list[int]] = {}
        self._said: dict[int, int] = {}

    def add(self, rows: Sequence[Sequence[int]], capacities: Sequence[int]) -> list[int]:
        numbers = [next(self._numbers) for _ in rows]
        for number, ids, capacity in zip(numbers, rows, capacities, strict=True):
            self._queues[number] = RowQueue(ids, capacity, 1000, self._engine.vocab_size)
            self._scripts[number] = self._engine.scripts[number % len(self._engine.scripts)]
            self._said[number] = 0
        return numbers

    def fork(self, row: int, copies: int) -> list[int]:
        numbers = [next(self._numbers) for _ in range(copies)]
        for number in numbers:
            self._queues[number] = self._queues[row].copy()
            self._scripts[number], self._said[number] = self._scripts[row], self._said[row]
        return numbers

    def append(self, row: int, token: int) -> None:
        self._queues[row].append(token)

    def room(self, row: int) -> int:
        return self._queues[row].room

    def step(self, rows: Sequence[int], piece: int = PIECE) -> tuple[list[int], np.ndarray]:
        refuse_unreadable(rows, self._queues)
        self._engine.rows_per_step.append(len(rows))
        ready = []
        for row in rows:
            self._queues[row].take(piece)
            ready += [row] if not self._queues[row].unread else []
        logits = np.zeros((len(ready), self._engine.vocab_size), np.float32)
        for position, row in enumerate(ready):
            script, said = self._scripts[row], self._said[row]
            logits[position, script[min(said, len(script) - 1)]] = 100.0
            self._said[row] += 1
        return ready, logits

    def drop(self, rows: Sequence[int]) -> None:
        for row in rows:
            del self._queues[row]
