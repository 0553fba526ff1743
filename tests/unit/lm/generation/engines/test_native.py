"""The native engine: what it refuses, and what must not change a single bit of what it computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conjure.errors import ModelError, ShapeError
from conjure.lm.generation.engines.native import NativeEngine, supports
from conjure.lm.native.library import INSTRUCTIONS
from support.engines import logits_of, native_weights, read_whole
from support.models import tiny_model
from support.native import native_status
from support.oracle import random_ids

MODEL = tiny_model(n_embd=96, n_head=3, n_inner=200, vocab_size=333, context_length=64)
WEIGHTS = native_weights(MODEL)


@pytest.fixture(params=INSTRUCTIONS)
def status(request, monkeypatch):
    return native_status(request.param, monkeypatch)


@pytest.fixture
def engine(monkeypatch):
    return NativeEngine(WEIGHTS, native_status("portable", monkeypatch))


class TestSameBits:
    """A row's logits depend on its own tokens alone."""

    def test_in_any_portions(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids = random_ids(MODEL.config, 1, 50)
        whole = logits_of(engine, ids, prompt=1)
        for at_once in (2, 3, 5, 33, 49):
            assert logits_of(engine, ids, prompt=at_once).equal(whole[:, at_once - 1 :])
        for piece in (1, 7, 16, 64):
            session = engine.session()
            (row,) = session.add(ids.tolist(), [50])
            assert read_whole(session, [row], piece).equal(whole[:, -1])

    def test_in_any_company(self, status):
        engine = NativeEngine(WEIGHTS, status)
        lengths = [40, 3, 39, 1, 17, 33, 8, 22, 40, 5, 12]
        rows = [random_ids(MODEL.config, 1, 44, seed=seed) for seed in range(len(lengths))]
        pad = torch.tensor([40 - length for length in lengths])
        batch = logits_of(engine, torch.cat(rows), pad, 40)
        for number, row in enumerate(rows):
            alone = row[:, pad[number] :]
            assert logits_of(engine, alone, prompt=lengths[number]).equal(batch[number : number + 1])

    def test_with_any_number_of_threads(self, status):
        ids, pad = random_ids(MODEL.config, 5, 20), torch.tensor([0, 7, 0, 14, 1])
        one, *more = (
            logits_of(NativeEngine(WEIGHTS, status, threads=threads), ids, pad, 15) for threads in (1, 2, 5)
        )
        assert all(logits.equal(one) for logits in more)

    def test_more_rows_than_are_read_at_once(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids = random_ids(MODEL.config, 30, 40)  # 1,200 tokens, in three calls
        together = logits_of(engine, ids)
        for row in (0, 13, 29):
            assert logits_of(engine, ids[row : row + 1]).equal(together[row : row + 1])


class TestRefusals:
    """Nothing that does not fit reaches C."""

    @pytest.mark.parametrize("token", [-1, MODEL.config.vocab_size, 2**40])
    def test_ids_outside_the_vocabulary(self, engine, token):
        session = engine.session()
        with pytest.raises(ModelError, match="token ids must be from 0 to 332"):
            session.add([[1, token]], [4])
        rows = session.add([[1, 2]], [4])
        session.step(rows)
        with pytest.raises(ModelError, match="token ids must be from 0 to 332"):
            session.append(rows[0], token)

    def test_an_activation_that_c_does_not_have(self, monkeypatch):
        weights = replace(WEIGHTS, config=replace(MODEL.config, activation="tanh"))
        assert not supports(weights.config)
        with pytest.raises(ModelError, match="does not support activation 'tanh'"):
            NativeEngine(weights, native_status("portable", monkeypatch))

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("embedding.weight", lambda array: array[:-1]),
            ("embedding.weight", lambda array: array.astype(np.float32)),
            ("embedding.weight", lambda array: np.asfortranarray(array)),
            ("position_embedding.weight", lambda array: array[:10]),
            ("lm_head.weight", lambda array: array[:, :1]),
            ("head_mean", lambda array: array.astype(np.float64)),
            ("final_norm.bias", lambda array: array[1:]),
            ("blocks.1.mlp.down.weight", lambda _: WEIGHTS.arrays["blocks.1.attention.out.weight"]),
        ],
    )
    def test_weights_that_do_not_fit_their_configuration(self, name, change):
        with pytest.raises(ShapeError, match=rf"weight {name} is "):
            replace(WEIGHTS, arrays={**WEIGHTS.arrays, name: change(WEIGHTS.arrays[name])})

    def test_a_weight_that_is_missing(self):
        arrays = {name: array for name, array in WEIGHTS.arrays.items() if not name.startswith("blocks.1.")}
        with pytest.raises(ShapeError, match=r"weight blocks\.1\.\S+ is missing"):
            replace(WEIGHTS, arrays=arrays)


def test_logits_of_a_model_that_is_no_number_are_no_numbers(status):
    broken = tiny_model(n_embd=96, n_head=3)
    weights = native_weights(broken)
    weights.arrays["blocks.1.mlp_norm.weight"][5] = float("nan")
    ids = random_ids(broken.config, 2, 5)
    logits = logits_of(NativeEngine(weights, status), ids, torch.tensor([0, 2]))
    assert logits.isnan().all()


def test_what_a_token_takes_is_what_is_allocated(engine):
    session = engine.session()
    rows = session.add(random_ids(MODEL.config, 2, 40).tolist(), [64, 64])
    allocated = sum(session._rows[row].memory.nbytes for row in rows)
    assert allocated == 2 * 64 * engine.bytes_per_token
