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


YARN = {
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 32,
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
    yarn = shape(**YARN)
    assert yarn.scaling == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def test_a_factor_without_a_type_is_linear_scaling_as_llama_cpp_has_it():
    assert shape(rope__scaling__factor=4.0).scaling == {"rope_type": "linear", "factor": 4.0}
    assert shape(rope__scaling__factor=1.0).scaling is None
    assert shape(rope__scaling__type="none", rope__scaling__factor=4.0).scaling is None


def test_what_changes_nothing_may_be_said():
    said = {
        "vocab_size": 100,
        "attention__causal": True,
        "attention__layer_norm_epsilon": 1e-5,
        "attention__scale": 0.0,
        "attention__sliding_window": 0,
        "expert_count": 0,
        "rope__scaling__finetuned": False,
        "rope__scaling__attn_factor": 1.0,
        "rope__scaling__yarn_ext_factor": 1.0,
        "rope__scaling__yarn_log_multiplier": 0.0,
    }
    assert shape(**YARN, **said) == shape(**YARN)


class TestLocalLayers:
    """Gemma 3's; the window, which layers have it and their rotary base."""

    def shape(self, **changes):
        keys = {key.replace("qwen2", "gemma3"): value for key, value in KEYS.items()}
        keys |= {"general.architecture": "gemma3", "gemma3.block_count": 7}
        keys |= {f"gemma3.{key}": value for key, value in changes.items() if value is not None}
        return GGUFShape.from_keys(keys, vocabulary=100, tied=True, rope_divisors=None)

    @pytest.mark.parametrize(
        ("pattern", "windowed"),
        [
            (None, "1111101"),
            (6, "1111101"),
            (2, "1010101"),
            (1, "0000000"),
            (0, "1111111"),
            ([1, 1, 0, 1, 1, 0, 0], "1101100"),
            ([True] * 7, "1111111"),
        ],
    )
    def test_which_they_are(self, pattern, windowed):
        changes = {"attention.sliding_window": 16, "attention.sliding_window_pattern": pattern}
        found = self.shape(**changes)
        assert "".join(str(int(each)) for each in found.windowed) == windowed
        assert (found.window, found.local_rope_base) == (16, 10_000.0)

    @pytest.mark.parametrize("window", [None, 0])
    def test_there_are_none_without_a_window(self, window):
        found = self.shape(**{"attention.sliding_window": window, "attention.sliding_window_pattern": 2})
        assert not any(found.windowed)

    def test_they_have_a_rotary_base_of_their_own(self):
        found = self.shape(**{"attention.sliding_window": 16, "rope.freq_base_swa": 500.0})
        assert found.local_rope_base == 500.0

    @pytest.mark.parametrize("pattern", [[1, 0], [1, 1, 1, 1, 1, 1, 2], "all", -1])
    def test_a_pattern_that_is_none_is_refused(self, pattern):
        with pytest.raises(ModelError, match="sliding_window_pattern must be"):
            self.shape(**{"attention.sliding_window": 16, "attention.sliding_window_pattern": pattern})


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
        ({"rope__scale_linear": 2.0}, "its key 'qwen2.rope.scale_linear' is 2.0, which conjure does not"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping' is 50.0"),
        ({"attention__sliding_window": 4096}, "sliding_window' is 4096"),
        ({"attention__sliding_window_pattern": 2}, "sliding_window_pattern' is 2"),
        ({"attention__scale": 0.5}, "attention.scale' is 0.5"),
        ({"attention__causal": False}, "attention.causal' is False"),
        ({"rope__freq_base_swa": 500.0}, "freq_base_swa' is 500.0"),
        ({"rope__scaling__attn_factor": 0.5}, "attn_factor' is 0.5"),
        ({**YARN, "rope__scaling__attn_factor": 0.5}, "attn_factor' is 0.5"),
        ({**YARN, "rope__scaling__yarn_attn_factor": 0.5}, "yarn_attn_factor' is 0.5"),
        ({**YARN, "rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor is not 1"),
        ({**YARN, "rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier' is 0.1"),
        ({"some_day__invented": 1}, "its key 'qwen2.some_day.invented' is 1"),
        ({"context_length": 1 << 40}, "context_length must be an integer from 1 to .*, not 1099511627776"),
    ],
)
def test_what_would_change_numbers_is_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        shape(**changes)
