"""The native engine: what it refuses, and what must not change a single bit of what it computes."""

from dataclasses import replace

import pytest
import torch

from conjure.errors import ContextLengthError, ModelError, ShapeError
from conjure.lm.generation.engines.int8_quantization import QuantisedModel
from conjure.lm.generation.engines.native import NativeEngine, supports
from conjure.lm.native.library import INSTRUCTIONS
from support.models import tiny_config, tiny_model
from support.native import native_status
from support.oracle import random_ids

MODEL = tiny_model(n_embd=96, n_head=3, n_inner=200, vocab_size=333, context_length=64)
WEIGHTS = QuantisedModel.of(MODEL)
NO_PADDING = torch.zeros(1, dtype=torch.int64)


@pytest.fixture(params=INSTRUCTIONS)
def status(request, monkeypatch):
    return native_status(request.param, monkeypatch)


@pytest.fixture
def engine(monkeypatch):
    return NativeEngine(WEIGHTS, native_status("portable", monkeypatch))


def read_all(engine: NativeEngine, ids: torch.Tensor, pad: torch.Tensor, at_once: int) -> torch.Tensor:
    """Logits after each of the tokens from the `at_once`-th on, (R, T - at_once + 1, V)."""
    logits = [engine.prefill(ids[:, :at_once], pad, ids.shape[1]).clone()]
    logits += [engine.step(column).clone() for column in ids[:, at_once:].unbind(1)]
    return torch.stack(logits, 1)


class TestSameBits:
    """A row's logits depend on its own tokens alone."""

    def test_in_any_portions(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids = random_ids(MODEL.config, 1, 50)
        whole = read_all(engine, ids, NO_PADDING, 1)
        for at_once in (2, 3, 5, 33, 49):
            assert read_all(engine, ids, NO_PADDING, at_once).equal(whole[:, at_once - 1 :])

    def test_in_any_company(self, status):
        engine = NativeEngine(WEIGHTS, status)
        lengths = [40, 3, 39, 1, 17, 33, 8, 22, 40, 5, 12]
        rows = [random_ids(MODEL.config, 1, 44, seed=seed) for seed in range(len(lengths))]
        pad = torch.tensor([40 - length for length in lengths])
        batch = read_all(engine, torch.cat(rows), pad, 40)
        for number, row in enumerate(rows):
            alone = row[:, pad[number] :]
            assert read_all(engine, alone, NO_PADDING, lengths[number]).equal(batch[number : number + 1])

    def test_with_any_number_of_threads(self, status):
        ids, pad = random_ids(MODEL.config, 5, 20), torch.tensor([0, 7, 0, 14, 1])
        one, *more = (
            read_all(NativeEngine(WEIGHTS, status, threads=threads), ids, pad, 15) for threads in (1, 2, 5)
        )
        assert all(logits.equal(one) for logits in more)

    def test_more_rows_than_are_read_at_once(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids = random_ids(MODEL.config, 30, 40)  # 1,200 tokens, in three portions
        together = engine.prefill(ids, torch.zeros(30, dtype=torch.int64), 40).clone()
        for row in (0, 13, 29):
            assert engine.prefill(ids[row : row + 1], NO_PADDING, 40).equal(together[row : row + 1])


class TestSelect:
    def test_rows_leave_repeat_and_change_places(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids, pad = random_ids(MODEL.config, 4, 34), torch.tensor([0, 30, 5, 0])
        for rows in ([2], [3, 1], [0, 1, 2, 3], [1, 1, 0, 3, 3, 3]):
            kept = torch.tensor(rows)
            engine.prefill(ids[:, :33], pad, 40)
            engine.select(kept)
            got = engine.step(ids[kept, 33]).clone()
            engine.prefill(ids[:, :33], pad, 40)
            assert got.equal(engine.step(ids[:, 33])[kept])

    def test_copies_go_their_own_ways(self, status):
        engine = NativeEngine(WEIGHTS, status)
        ids = random_ids(MODEL.config, 1, 12)
        engine.prefill(ids, NO_PADDING, 20)
        engine.select(torch.tensor([0, 0]))
        engine.step(torch.tensor([5, 9]))
        forked = engine.step(torch.tensor([7, 7])).clone()
        for row, token in enumerate((5, 9)):
            alone = torch.cat([ids, torch.tensor([[token, 7]])], 1)
            assert engine.prefill(alone, NO_PADDING, 20).equal(forked[row : row + 1])


class TestSummarise:
    def random_logits(self, rows: int, vocab: int) -> torch.Tensor:
        return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 4 - 100

    @pytest.mark.parametrize("vocab", [1, 17, 1023, 1024, 1025, 5003])
    def test_equals_torch(self, status, vocab):
        logits = self.random_logits(3, vocab)
        logsumexp, argmax = NativeEngine(WEIGHTS, status).summarise(logits)
        torch.testing.assert_close(logsumexp, logits.double().logsumexp(1, keepdim=True).float())
        assert argmax.equal(logits.argmax(1))

    def test_of_equal_logits_it_takes_the_first(self, status):
        logits = self.random_logits(1, 5000)
        for token in (4999, 3000, 2048, 2047, 5, 0):
            logits[0, token] = 50.0
            assert NativeEngine(WEIGHTS, status).summarise(logits)[1].tolist() == [token]

    def test_bits_depend_neither_on_threads_nor_on_other_rows(self, status):
        logits = self.random_logits(5, 5003)
        one, *more = (
            NativeEngine(WEIGHTS, status, threads=threads).summarise(logits)[0] for threads in (1, 2, 5)
        )
        assert all(logsumexp.equal(one) for logsumexp in more)
        assert NativeEngine(WEIGHTS, status).summarise(logits[3:4])[0].equal(one[3:4])

    def test_logits_far_apart_and_forbidden_ones(self, status):
        logits = torch.full((1, 3000), -torch.inf)
        logits[0, 7], logits[0, 2500] = -1e5, 1e5
        logsumexp, argmax = NativeEngine(WEIGHTS, status).summarise(logits)
        assert (logsumexp.item(), argmax.item()) == (1e5, 2500)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_no_number_leaves_no_number_in_its_row_only(self, status, bad):
        logits = self.random_logits(2, 3000)
        logits[1, 2000] = bad
        logsumexp, _ = NativeEngine(WEIGHTS, status).summarise(logits)
        assert logsumexp.isfinite().tolist() == [[True], [False]]


class TestRefusals:
    """Nothing that does not fit reaches C."""

    @pytest.mark.parametrize("token", [-1, MODEL.config.vocab_size, 2**40])
    def test_ids_outside_the_vocabulary(self, engine, token):
        with pytest.raises(ModelError, match="token ids must be from 0 to 332"):
            engine.prefill(torch.tensor([[1, token]]), NO_PADDING, 4)
        engine.prefill(torch.tensor([[1, 2]]), NO_PADDING, 4)
        with pytest.raises(ModelError, match="token ids must be from 0 to 332"):
            engine.step(torch.tensor([token]))

    @pytest.mark.parametrize(("tokens", "capacity"), [(0, 5), (3, 2), (5, 65), (65, 65)])
    def test_tokens_that_do_not_fit(self, engine, tokens, capacity):
        with pytest.raises(ContextLengthError, match=f"{tokens} tokens in room for {capacity} do not fit"):
            engine.prefill(torch.zeros(1, tokens, dtype=torch.int64), NO_PADDING, capacity)

    @pytest.mark.parametrize("pad", [[-1, 0], [3, 0], [0], [0, 0, 0]])
    def test_padding_that_does_not_fit(self, engine, pad):
        with pytest.raises(ShapeError, match="does not fit 2 rows of 3 tokens"):
            engine.prefill(torch.ones(2, 3, dtype=torch.int64), torch.tensor(pad), 4)

    def test_more_steps_than_there_is_room_for(self, engine):
        engine.prefill(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 0]), 4)
        engine.step(torch.tensor([1, 1]))
        with pytest.raises(ShapeError, match="room for 0 more tokens"):
            engine.step(torch.tensor([1, 1]))

    def test_another_number_of_rows(self, engine):
        engine.prefill(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 0]), 8)
        with pytest.raises(ShapeError, match=r"ids of shape \(3, 1\) do not fit 2 rows"):
            engine.step(torch.tensor([1, 1, 1]))

    def test_a_step_before_anything_was_read(self, engine):
        with pytest.raises(ShapeError, match="do not fit 0 rows"):
            engine.step(torch.tensor([1]))

    def test_a_model_of_another_kind(self, monkeypatch):
        model = tiny_model(activation_function="gelu")
        assert not supports(model.config)
        with pytest.raises(ModelError, match="supports only GPT-2 models"):
            NativeEngine(QuantisedModel.of(model), native_status("portable", monkeypatch))

    @pytest.mark.parametrize(
        "changes",
        [
            {"wte": WEIGHTS.wte[:-1]},
            {"wte": WEIGHTS.wte.float()},
            {"wte": WEIGHTS.wte.t().contiguous().t()},
            {"wpe": WEIGHTS.wpe[:10]},
            {"head": WEIGHTS.layers[0].fc},
            {"head_mean": WEIGHTS.head_mean.double()},
            {"ln_f": (WEIGHTS.ln_f[0], WEIGHTS.ln_f[1][1:])},
            {"layers": WEIGHTS.layers[:1]},
            {"layers": (WEIGHTS.layers[0], replace(WEIGHTS.layers[1], fc_proj=WEIGHTS.layers[1].proj))},
            {"config": tiny_config(n_embd=96, n_head=3, n_inner=200, vocab_size=1000, context_length=64)},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_weights_that_do_not_fit_their_configuration(self, changes, monkeypatch):
        with pytest.raises(ShapeError):
            NativeEngine(replace(WEIGHTS, **changes), native_status("portable", monkeypatch))


def test_logits_of_a_model_that_is_no_number_are_no_numbers(status):
    broken = tiny_model(n_embd=96, n_head=3)
    weights = QuantisedModel.of(broken)
    weights.layers[1].ln_2[0][5] = float("nan")
    ids = random_ids(broken.config, 2, 5)
    logits = NativeEngine(weights, status).prefill(ids, torch.tensor([0, 2]), 8)
    assert logits.isnan().all()


def test_what_a_token_takes_is_what_is_allocated(engine):
    engine.prefill(random_ids(MODEL.config, 2, 40), torch.tensor([0, 0]), 64)
    allocated = sum(tensor.nbytes for tensor in (*engine._keys, *engine._values))
    assert allocated == 2 * 64 * engine.bytes_per_token
    assert engine.length == 40
