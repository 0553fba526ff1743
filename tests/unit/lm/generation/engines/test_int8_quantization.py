"""Rounding to int8: how far it may move a number, and what is refused."""

import pytest
import torch

from conjure.errors import ModelError
from conjure.lm.generation.engines.int8_quantization import (
    Int8Decoder,
    round_activations,
    round_weight,
)
from conjure.lm.generation.engines.native_weights import GROUP
from support.models import tiny_model
from support.oracle import random_ids


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


class TestWeights:
    def test_each_is_off_by_at_most_half_a_step_of_its_group(self):
        weight = random_matrix(40, 3 * GROUP)
        weight[:, GROUP] *= 50  # a huge weight coarsens its own group only
        values, scales = round_weight(weight)
        groups = weight.unflatten(1, (-1, GROUP))
        step = groups.abs().amax(2, keepdim=True) / 127 * (1 + 2**-7)  # scales are rounded up to bfloat16
        assert ((values * scales - groups).abs() <= step / 2 * (1 + 1e-6)).all()

    def test_scales_are_exact_in_bfloat16_and_no_weight_leaves_the_range(self):
        for seed in range(20):
            values, scales = round_weight(random_matrix(64, GROUP, seed) * 10.0 ** (seed - 10))
            assert (scales.bfloat16().float() == scales).all()
            assert values.abs().max() <= 127
            assert (values.abs().amax((1, 2)) >= 126).all(), "the range is used"

    def test_zeros_stay_zeros(self):
        values, scales = round_weight(torch.zeros(2, 70))
        assert not values.any()
        assert not scales.any()

    def test_an_incomplete_group_is_filled_with_zeros(self):
        values, _ = round_weight(random_matrix(3, GROUP + 1))
        assert values.shape == (3, 2, GROUP)
        assert not values[:, 1, 1:].any()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_no_number_is_refused(self, bad):
        weight = random_matrix(5, 10)
        weight[3, 7] = bad
        with pytest.raises(ModelError, match="the model's weights contain NaN or infinity"):
            round_weight(weight)


class TestActivations:
    def test_each_is_off_by_at_most_half_a_step_of_its_row(self):
        x = random_matrix(6, 100) * torch.tensor([[1e-6], [1e-2], [1.0], [30.0], [1e5], [0.0]])
        error = (round_activations(x) - x).abs()
        assert (error <= x.abs().amax(1, keepdim=True) / 32767 / 2 * 1.01).all()


class TestModel:
    def test_logits_stay_near_those_of_float32(self):
        model = tiny_model(n_embd=64, n_head=4)
        ids = random_ids(model.config, 4, 32)
        with torch.inference_mode():
            exact, rounded = (each.head(each(ids)) for each in (model, Int8Decoder(model)))
        assert 0 < (rounded - exact).abs().max() <= 0.05 * exact.abs().max()

    def test_the_model_itself_is_left_as_it_is(self):
        model, untouched = tiny_model(), tiny_model()
        Int8Decoder(model)
        for weight, before in zip(model.parameters(), untouched.parameters(), strict=True):
            assert weight.equal(before)

    def test_damaged_weights_are_refused(self):
        model = tiny_model()
        with torch.no_grad():
            model.blocks[1].mlp.up.weight[3, 3] = float("nan")
        with pytest.raises(ModelError, match="NaN or infinity"):
            Int8Decoder(model)
