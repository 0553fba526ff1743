"""Rotary scaling is told from what a file holds of it."""

import pytest

from conjure.errors import ModelError
from conjure.lm.checkpoints.gguf.header import GGUFShape, llama3_divisors, llama3_scaling

KEYS = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 2,
    "qwen2.context_length": 64,
    "qwen2.embedding_length": 64,
    "qwen2.feed_forward_length": [96, 96],
    "qwen2.attention.head_count": 4,
    "qwen2.attention.layer_norm_rms_epsilon": 9.999999974752427e-07,
}


def shape(**changes):
    keys = {**KEYS, **{f"qwen2.{key.replace('__', '.')}": value for key, value in changes.items()}}
    return GGUFShape.from_keys(keys, vocabulary=100, tied=True, rope_divisors=None)


@pytest.mark.parametrize(
    ("base", "size", "factor", "low", "high", "original"),
    [
        (500_000.0, 128, 8.0, 1.0, 4.0, 8192),  # Llama 3.1
        (500_000.0, 64, 32.0, 1.0, 4.0, 8192),  # Llama 3.2 1B
        (500_000.0, 64, 32.0, 2.0, 8.0, 16384),  # the same curve
        (10_000.0, 64, 4.0, 1.0, 6.0, 1000),
        (500.0, 16, 8.0, 1.0, 4.0, 64),
        (5_000_000.0, 128, 16.0, 1.0, 32.0, 4096),
    ],
)
def test_llama3_scaling_is_told_from_its_divisors(base, size, factor, low, high, original):
    settings = {
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    divisors = llama3_divisors(settings, base, size)
    found = llama3_scaling(divisors, base, size)
    assert found["rope_type"] == "llama3"
    assert llama3_divisors(found, base, size) == pytest.approx(divisors, rel=1e-4)
    if low == 1:
        assert found["original_max_position_embeddings"] == original
        assert found["high_freq_factor"] == pytest.approx(high, rel=1e-3)


def test_divisors_of_one_scale_nothing():
    assert llama3_scaling([1.0] * 32, 10_000.0, 64) is None


@pytest.mark.parametrize("divisors", [[1.0] * 31, [1.0] * 31 + [float("nan")], [0.5] * 32, [1.0, 5.0] * 16])
def test_other_divisors_are_refused(divisors):
    with pytest.raises(ModelError, match="rope_freqs"):
        llama3_scaling(divisors, 10_000.0, 64)


def test_numbers_are_read_as_they_were_meant():
    found = shape()
    assert (found.epsilon, found.inner, found.kv_heads, found.head_size) == (1e-6, 96, 4, 16)


def test_linear_and_yarn_scaling():
    linear = shape(rope__scaling__type="linear", rope__scaling__factor=4.0)
    assert linear.scaling == {"rope_type": "linear", "factor": 4.0}
    yarn = shape(
        rope__scaling__type="yarn", rope__scaling__factor=4.0, rope__scaling__original_context_length=32
    )
    assert yarn.scaling == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feed_forward_length": [96, 80]}, r"feed_forward_length must be an integer"),
        ({"attention__head_count_kv": 3}, "4 heads, which is not a multiple of 3 key/value heads"),
        ({"attention__value_length": 8}, "keys and values have different sizes"),
        ({"rope__dimension_count": 40}, "rotates 40 of 16 channels of a head"),
        ({"rope__dimension_count": 8}, "rotates 8 of 16 channels of a head, .* only for gptneox"),
        (
            {"rope__dimension_count": 16, "attention__key_length": 17, "attention__value_length": 17},
            "rotates 16 of 17 channels of a head, .* only for gptneox",
        ),
        ({"rope__freq_base": float("inf")}, "rope.freq_base must be a positive number, not inf"),
        ({"rope__freq_base": 1.0}, "rope.freq_base must be a number above 1 .*, not 1.0"),
        ({"rope__freq_base": 1e300}, "rope.freq_base must be a number above 1 .*, not 1e[+]300"),
        ({"rope__scale_linear": 2.0}, "RoPE scaling in an old format"),
        ({"attn_logit_softcapping": 50.0}, "logit softcapping"),
        ({"attention__sliding_window": 4096}, "a sliding window"),
        ({"context_length": 1 << 40}, "context_length must be an integer from 1 to .*, not 1099511627776"),
    ],
)
def test_what_would_change_numbers_is_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        shape(**changes)
