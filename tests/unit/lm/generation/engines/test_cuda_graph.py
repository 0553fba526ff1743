"""The fixed step that a GPU replays, computed on the CPU: the same logits as the step that grows."""

import pytest
import torch

from conjure.lm.generation.engines.cuda_graph import FixedKVCache, GraphEngine, torch_engine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from support.models import tiny_config, tiny_model

CONFIG = tiny_config()


def engines(dtype=torch.float32, **changes):
    model = tiny_model(0, 0.3, **changes).to(dtype)
    return TorchEngine(model), GraphEngine(model)


def ids(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CONFIG.vocab_size, (rows, length), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pad", [[0, 0, 0], [0, 3, 1]])
def test_steps_equal_those_of_a_growing_cache(pad, dtype):
    growing, fixed = engines(dtype)
    read, pad = ids(3, 6), torch.tensor(pad)
    bound = 1e-5 if dtype == torch.float32 else 0.05
    results = [(engine.prefill(read, pad, capacity=20).clone()) for engine in (growing, fixed)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    for step in range(14):
        token = ids(3, 1, seed=step)[:, 0]
        expected, found = growing.step(token), fixed.step(token)
        assert growing.length == fixed.length == 7 + step
        assert (found - expected).abs().max() <= bound * expected.abs().max()


def test_rows_can_be_chosen_and_repeated_in_between():
    growing, fixed = engines()
    for engine in (growing, fixed):
        engine.prefill(ids(3, 4), torch.tensor([0, 1, 2]), capacity=12)
        engine.step(ids(3, 1)[:, 0])
        engine.select(torch.tensor([2, 0, 0, 1]))
    for step in range(3):
        token = ids(4, 1, seed=step)[:, 0]
        torch.testing.assert_close(fixed.step(token), growing.step(token), rtol=0, atol=1e-4)


def test_it_can_be_filled_to_the_last_column_and_read_anew():
    growing, fixed = engines()
    context = CONFIG.context_length
    for start in (context - 3, 5):
        read = ids(2, start, seed=start)
        pad = torch.zeros(2, dtype=torch.int64)
        for engine in (growing, fixed):
            engine.prefill(read, pad, capacity=start + 3)
        for step in range(3):
            token = ids(2, 1, seed=step)[:, 0]
            torch.testing.assert_close(fixed.step(token), growing.step(token), rtol=0, atol=1e-4)


def test_layers_that_scale_attention_by_their_number():
    growing, fixed = engines(scale_attn_by_inverse_layer_idx=True)
    for engine in (growing, fixed):
        engine.prefill(ids(1, 4), torch.tensor([0]), capacity=8)
    token = ids(1, 1)[:, 0]
    torch.testing.assert_close(fixed.step(token), growing.step(token), rtol=0, atol=1e-4)


def test_a_fixed_cache_counts_in_a_tensor():
    growing, _ = engines()
    growing.prefill(ids(1, 4), torch.tensor([0]), capacity=8)
    cache = FixedKVCache(growing.hand_over())
    column = cache.column
    cache.advance(2)
    assert (cache.length, column.tolist()) == (6, [6])


def test_without_a_gpu_the_plain_engine_is_taken():
    assert type(torch_engine(tiny_model())) is TorchEngine
