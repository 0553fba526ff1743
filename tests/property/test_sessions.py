"""What a row gets from a session depends on its own tokens alone, whatever other rows come, go and wait.

A schedule is drawn step by step: rows join with prompts of any length, are read in pieces or wait, fork, get
tokens, and are dropped. Every logit that a row gets is held against those of the row alone in a session.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.engines.cuda_graph import GraphEngine
from conjure.lm.generation.engines.native import NativeEngine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.native import status
from support.engines import native_weights
from support.models import tiny_model

CONTEXT, VOCAB = 48, 61
MODEL = tiny_model(seed=3, n_embd=48, n_head=3, vocab_size=VOCAB, context_length=CONTEXT)
TOKENS = st.integers(0, VOCAB - 1)
ACTIONS = ("add", "step", "step", "step", "append", "append", "fork", "drop")


class Schedule:
    """A session in which rows are moved as drawn, and what each row has read and got so far."""

    def __init__(self, engine: Engine, data: st.DataObject) -> None:
        self.engine, self.data = engine, data
        self.session = engine.session()
        self.read: dict[int, list[int]] = {}
        self.unread: dict[int, bool] = {}
        self.logits: list[tuple[tuple[int, ...], np.ndarray]] = []

    def run(self) -> None:
        for action in self.data.draw(st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=25)):
            getattr(self, f"_{action}")()
        for row, unread in list(self.unread.items()):
            while unread and row in self.read:
                self._step_rows([row])
                unread = self.unread[row]

    def _add(self) -> None:
        rows = self.data.draw(st.lists(st.lists(TOKENS, min_size=1, max_size=30), min_size=1, max_size=3))
        numbers = self.session.add(rows, [min(CONTEXT, len(row) + 10) for row in rows])
        self.read.update(zip(numbers, map(list, rows), strict=True))
        self.unread.update(dict.fromkeys(numbers, True))

    def _step(self) -> None:
        rows = [row for row, unread in self.unread.items() if unread]
        if rows:
            chosen = self.data.draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
            self._step_rows(chosen, self.data.draw(st.sampled_from([3, 8, 64])))

    def _step_rows(self, rows: list[int], piece: int = 64) -> None:
        ready, logits = self.session.step(rows, piece)
        for row, got in zip(ready, logits.copy(), strict=True):
            self.unread[row] = False
            self.logits.append((tuple(self.read[row]), got))

    def _append(self) -> None:
        for row, unread in self.unread.items():
            if not unread and self.session.room(row):
                token = self.data.draw(TOKENS)
                self.session.append(row, token)
                self.read[row].append(token)
                self.unread[row] = True

    def _fork(self) -> None:
        rows = [row for row, unread in self.unread.items() if not unread]
        if rows:
            row = self.data.draw(st.sampled_from(rows))
            for number in self.session.fork(row, 2):
                self.read[number], self.unread[number] = [*self.read[row]], False

    def _drop(self) -> None:
        if self.read:
            row = self.data.draw(st.sampled_from(sorted(self.read)))
            self.session.drop([row])
            del self.read[row], self.unread[row]


def alone(engine: Engine, tokens: tuple[int, ...]) -> np.ndarray:
    session = engine.session()
    rows = session.add([tokens], [CONTEXT])
    _, logits = session.step(rows, CONTEXT)
    return logits[0].copy()


def native() -> NativeEngine:
    found = status()
    if found.library is None:
        pytest.skip(found.reason)
    return NativeEngine(native_weights(MODEL), found)


@settings(max_examples=60)
@given(data=st.data())
def test_the_native_engine_gives_the_same_bits(data):
    schedule = Schedule(native(), data)
    schedule.run()
    for tokens, got in schedule.logits:
        assert np.array_equal(got, alone(schedule.engine, tokens))


@pytest.mark.parametrize("kind", [TorchEngine, GraphEngine])
@settings(max_examples=25)
@given(data=st.data())
def test_the_torch_engine_gives_the_same_log_probabilities(kind, data):
    schedule = Schedule(kind(MODEL), data)
    schedule.run()
    plain = TorchEngine(MODEL)
    for tokens, got in schedule.logits:
        one, other = (torch.from_numpy(each).log_softmax(0) for each in (got, alone(plain, tokens)))
        assert (one - other).abs().max() <= 1e-5
