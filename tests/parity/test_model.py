"""Our GPT-2 against transformers', on weights large enough that a wrong function anywhere shows."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.checkpoints.tensor_layout import take_apart
from conjure.lm.models.decoder import Decoder, KVCache
from conjure.lm.models.shape import Shape
from conjure.lm.nn.loss import linear_cross_entropy, token_logprobs
from support.models import tiny_config
from support.oracle import assert_logits_equal, random_ids, reference_model

SHAPES = {
    "tiny": {},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "deep": {"n_layer": 6, "n_embd": 24, "n_head": 3},
    "wide": {"n_embd": 64, "n_head": 4, "vocab_size": 1000, "context_length": 64},
    "own inner size": {"n_inner": 40},
    "large epsilon": {"layer_norm_epsilon": 0.1},
    "exact gelu": {"activation_function": "gelu"},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu_fast": {"activation_function": "gelu_fast"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "unscaled attention": {"scale_attn_weights": False},
    "attention scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "both scalings": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "untied head": {"tie_word_embeddings": False},
}


def pair(folder: Path, config: Shape):
    """transformers' model, and ours made of the checkpoint it saves."""
    reference = reference_model(config)
    reference.save_pretrained(folder)
    return reference, load_model(folder)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory):
    config = tiny_config(**SHAPES["wide"])
    return *pair(tmp_path_factory.mktemp("wide"), config), config


class TestLogits:
    @pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
    def test_equal_for_every_shape_and_variant(self, tmp_path: Path, changes: dict) -> None:
        config = tiny_config(**changes)
        reference, model = pair(tmp_path, config)
        ids = random_ids(config, 3, config.context_length)
        with torch.no_grad():
            assert_logits_equal(model.head(model(ids)), reference(ids).logits)

    def test_a_wrong_gelu_would_show(self, tmp_path: Path) -> None:
        config = tiny_config()
        reference, model = pair(tmp_path, config)
        for block in model.blocks:
            block.mlp.activation = functional.gelu
        ids = random_ids(config, 3, 32)
        with torch.no_grad(), pytest.raises(AssertionError):
            assert_logits_equal(model.head(model(ids)), reference(ids).logits)

    def test_equal_with_gradients_on(self, wide) -> None:
        reference, model, config = wide
        ids = random_ids(config, 2, 50)
        assert_logits_equal(model.head(model(ids)).detach(), reference(ids).logits.detach())

    def test_equal_one_token_at_a_time_with_both_caches(self, wide) -> None:
        reference, model, config = wide
        ids = random_ids(config, 2, 20)
        cache, reference_cache = KVCache(config, 2, 20), None
        with torch.no_grad():
            for position in range(20):
                step = ids[:, position : position + 1]
                out = reference(step, past_key_values=reference_cache, use_cache=True)
                reference_cache = out.past_key_values
                assert_logits_equal(model.head(model(step, cache=cache)), out.logits)

    def test_equal_with_left_padding(self, wide) -> None:
        reference, model, config = wide
        ids = random_ids(config, 3, 24)
        pad = torch.tensor([0, 5, 17])
        real = torch.arange(24) >= pad[:, None]  # (B, T)
        positions = (torch.arange(24) - pad[:, None]).clamp(min=0)
        with torch.no_grad():
            expected = reference(ids, attention_mask=real.long(), position_ids=positions).logits
            assert_logits_equal(model.head(model(ids, pad=pad))[real], expected[real])


class TestLoss:
    def test_mean_loss_equals_the_reference(self, wide) -> None:
        reference, model, config = wide
        ids = random_ids(config, 4, 33)
        with torch.no_grad():
            expected = reference(ids, labels=ids).loss.item()
            hidden = model(ids)[:, :-1].flatten(0, 1)
            targets = ids[:, 1:].flatten()
            loss = linear_cross_entropy(hidden, model.head_weight, targets, divisor=len(targets)).item()
            by_token = -token_logprobs(hidden, model.head_weight, targets).mean().item()
        assert loss == pytest.approx(expected, rel=1e-5)
        assert by_token == pytest.approx(expected, rel=1e-5)

    def test_gradients_equal_the_reference(self, tmp_path: Path) -> None:
        config = tiny_config(vocab_size=500)
        reference, model = pair(tmp_path, config)
        ids = random_ids(config, 2, 32)
        reference(ids, labels=ids).loss.backward()
        hidden, targets = model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        linear_cross_entropy(hidden, model.head_weight, targets, divisor=len(targets)).backward()
        expected = dict(reference.named_parameters())
        for name, parameter in model.named_parameters():
            ((theirs_name, like_theirs),) = take_apart(config, name, parameter.grad).items()
            theirs = expected[theirs_name].grad
            assert (like_theirs - theirs).abs().max() <= 2e-5 * theirs.abs().max(), name


class TestEqualities:
    """What must hold of our model alone."""

    def test_cache_equals_no_cache_in_any_portions(self, wide) -> None:
        _, model, config = wide
        ids = random_ids(config, 2, 40)
        cache = KVCache(config, 2, 64)
        with torch.no_grad():
            whole = model.head(model(ids))
            portions = [model.head(model(part, cache=cache)) for part in ids.split([1, 16, 1, 7, 15], dim=1)]
        assert cache.length == 40
        assert_logits_equal(torch.cat(portions, dim=1), whole)

    def test_padded_batch_equals_each_row_alone_with_a_cache(self, wide) -> None:
        _, model, config = wide
        rows = [random_ids(config, 1, length, seed=length) for length in (3, 9, 12)]
        pad = torch.tensor([12 - row.shape[1] for row in rows])
        batch = torch.cat([functional.pad(row, (12 - row.shape[1], 0)) for row in rows])
        cache = KVCache(config, 3, 15)
        steps = random_ids(config, 3, 3, seed=99)
        with torch.no_grad():
            last = [model.head(model(batch, cache=cache, pad=pad)[:, -1:])]
            last += [model.head(model(step, cache=cache, pad=pad)) for step in steps.split(1, dim=1)]
            for index, row in enumerate(rows):
                alone = model.head(model(torch.cat([row, steps[index : index + 1]], dim=1)))[:, -4:]
                assert_logits_equal(torch.cat(last, dim=1)[index : index + 1], alone)

    def test_segments_equal_separate_records(self, wide) -> None:
        _, model, config = wide
        lengths = [7, 1, 12]
        records = [random_ids(config, 1, length, seed=length) for length in lengths]
        segments = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
        # Positions run on within a block, so the records alone are read from the same positions.
        model_without_positions = Decoder(config)
        model_without_positions.load_state_dict(model.state_dict())
        with torch.no_grad():
            model_without_positions.position_embedding.weight.zero_()
            packed = model_without_positions(torch.cat(records, dim=1), segments=segments)
            alone = [model_without_positions(record) for record in records]
        assert_logits_equal(packed, torch.cat(alone, dim=1))

    def test_bfloat16_stays_near_float32(self, wide) -> None:
        _, model, config = wide
        half = Decoder(config)
        half.load_state_dict(model.state_dict())
        half = half.to(torch.bfloat16).eval()
        ids = random_ids(config, 2, 30)
        with torch.no_grad():
            exact, rough = model.head(model(ids)), half.head(half(ids)).float()
        assert (exact - rough).abs().max() <= 0.05 * exact.abs().max()
