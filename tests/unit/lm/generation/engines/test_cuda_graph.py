"""The fixed step that a GPU replays, computed on the CPU: the same logits as the step that grows."""

import pytest
import torch

from conjure.lm.generation.engines.cuda_graph import FixedKVCache, GraphEngine, torch_engine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from support.engines import logits_of, read_whole, step
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
    tokens = torch.cat([read, ids(3, 14, seed=1)], 1)
    expected, found = (logits_of(engine, tokens, pad, prompt=6) for engine in (growing, fixed))
    assert found[:, 0].equal(expected[:, 0])
    for place in range(1, 15):
        difference = (found[:, place] - expected[:, place]).abs().max()
        assert difference <= bound * expected[:, place].abs().max()


def test_rows_can_be_dropped_and_forked_in_between():
    results = []
    for engine in engines():
        session = engine.session()
        rows = session.add([row[: 4 - pad].tolist() for pad, row in enumerate(ids(3, 4))], [12, 12, 12])
        read_whole(session, rows)
        logits = [step(session, rows, [5, 6, 7])]
        session.drop(rows[1:2])
        rows = [rows[2], rows[0], *session.fork(rows[0], 1)]
        logits += [step(session, rows, ids(3, 1, seed=seed)[:, 0].tolist()) for seed in range(3)]
        results.append(torch.cat(logits))
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)


def test_it_can_be_filled_to_the_last_column():
    growing, fixed = engines()
    read = ids(2, CONFIG.context_length)
    expected, found = (logits_of(engine, read, prompt=read.shape[1] - 3) for engine in (growing, fixed))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_layers_that_scale_attention_by_their_number():
    growing, fixed = engines(scale_attn_by_inverse_layer_idx=True)
    expected, found = (logits_of(engine, ids(1, 5), prompt=4) for engine in (growing, fixed))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_fixed_cache_counts_in_a_tensor():
    growing, _ = engines()
    plain = growing.model.new_cache(1, 8)
    growing.model(ids(1, 4), cache=plain)
    cache = FixedKVCache(plain)
    column = cache.column
    cache.advance(2)
    assert (cache.length, column.tolist()) == (6, [6])


def test_without_a_gpu_the_plain_engine_is_taken():
    assert type(torch_engine(tiny_model())) is TorchEngine
