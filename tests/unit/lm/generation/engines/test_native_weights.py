"""Weights as the native engine reads them: every number where C looks for it, from any way of storing it."""

import numpy as np
import pytest
import torch

from conjure.lm.checkpoints.checkpoint_weights import NotFiniteError
from conjure.lm.generation.engines.int8_quantization import round_weight
from conjure.lm.generation.engines.native_weights import (
    BLOCK_BYTES,
    GROUP,
    PANEL,
    NativeWeights,
    byte_sums,
    layout,
    pack,
)
from conjure.lm.native import status
from support.engines import native_weights
from support.models import tiny_model

pytestmark = pytest.mark.skipif(status().library is None, reason=status().reason)


def random_matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).numpy()


def blocks_of(*parts: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    rows, columns = sum(map(len, parts)), parts[0].shape[1]
    packed = np.full((-(-rows // PANEL), -(-columns // GROUP), BLOCK_BYTES), 99, np.uint8)
    pack(parts, packed, "int8", mean)
    return packed


@pytest.mark.parametrize(("rows", "columns"), [(PANEL, GROUP), (3 * PANEL + 5, 2 * GROUP + 9), (1, 1)])
def test_every_int8_number_is_where_c_looks(rows, columns):
    weight = random_matrix(rows, columns)
    packed = torch.from_numpy(blocks_of(weight))
    values, scales = round_weight(torch.from_numpy(weight))
    stored_scales = packed[..., : 2 * PANEL].contiguous().view(torch.bfloat16)
    stored = packed[..., 2 * PANEL :].contiguous().view(torch.int8).unflatten(2, (-1, PANEL, 2))
    for n, k in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)]:
        block = n // PANEL, k // GROUP
        assert stored[*block, k % GROUP // 2, n % PANEL, k % 2] == values[n, k // GROUP, k % GROUP]
        assert stored_scales[*block, n % PANEL] == scales[n, k // GROUP, 0]
    assert stored.abs().sum(dtype=torch.int64) == values.abs().sum(dtype=torch.int64), "the rest is zeros"


def test_parts_lie_below_one_another():
    weight = random_matrix(90, 70)
    assert np.array_equal(blocks_of(weight[:7], weight[7:50], weight[50:]), blocks_of(weight))


def test_a_transposed_matrix_is_the_same():
    weight = random_matrix(90, 70)
    assert np.array_equal(blocks_of(np.ascontiguousarray(weight.T).T), blocks_of(weight))


def test_a_mean_row_is_taken_off_first():
    weight = random_matrix(50, 70) + 100
    mean = weight.mean(0)
    assert np.array_equal(blocks_of(weight, mean=mean), blocks_of(weight - mean))


def test_halves_are_widened_exactly():
    weight = torch.from_numpy(random_matrix(40, 70))
    weight[0, :5] = torch.tensor([0.0, -0.0, 6e-8, 65504.0, 6.1e-5])  # subnormal ones and the largest too
    half = weight.half()
    assert np.array_equal(blocks_of(half.numpy()), blocks_of(half.float().numpy()))
    bfloat16 = weight.bfloat16()
    bits = bfloat16.view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(blocks_of(bits), blocks_of(bfloat16.float().numpy()))
    plain = np.empty((40, 70), np.uint16)
    pack([bits], plain, "bfloat16")
    assert np.array_equal(plain, bits)
    floats = np.empty((40, 70), np.float32)
    pack([bits], floats, "float32")
    assert np.array_equal(floats, bfloat16.float().numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("format", ["int8", "float32"])
@pytest.mark.parametrize(
    "name", ["blocks.1.mlp.up.weight", "blocks.0.attention_norm.bias", "embedding.weight"]
)
def test_what_is_no_number_is_refused(bad, format, name):
    model = tiny_model()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = bad
    with pytest.raises(NotFiniteError, match=name):
        native_weights(model, format)


def test_a_head_of_its_own_is_taken():
    model = tiny_model(tie_word_embeddings=False)
    weights = native_weights(model, "float32")
    assert np.array_equal(weights.arrays["lm_head.weight"], model.head_weight.detach().numpy())


@pytest.mark.parametrize("format", ["int8", "float32", "bfloat16"])
def test_what_is_made_is_what_the_layout_says(format):
    weights = native_weights(tiny_model(), format)
    assert isinstance(weights, NativeWeights)
    assert set(weights.arrays) == set(layout(weights.config, format))


def test_shapes_are_those_of_the_decoder():
    model = tiny_model(tie_word_embeddings=False)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert model.config.parameter_shapes() == shapes


@pytest.mark.parametrize("size", [1, 63, 64, 1 << 20, (1 << 20) + 1])
def test_sums_show_any_change(size):
    numbers = np.arange(size, dtype=np.uint8)
    before = byte_sums(numbers)
    for place in {0, size // 2, size - 1}:
        numbers[place] ^= 1
        assert not np.array_equal(byte_sums(numbers), before)
        numbers[place] ^= 1
    assert np.array_equal(byte_sums(numbers), before)
