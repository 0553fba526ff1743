from dataclasses import replace
from typing import Any

import pytest

from conjure.errors import ModelError
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import config_settings, read_model_config
from conjure.lm.models.shape import MAX_LAYERS
from support.models import tiny_config


class TestFromDict:
    def test_defaults_are_the_124m_model(self) -> None:
        assert read_model_config({}).parameter_count == 124_439_808

    @pytest.mark.parametrize(
        ("settings", "attribute", "value"),
        [
            ({"n_positions": 64}, "context_length", 64),
            ({"n_ctx": 64}, "context_length", 64),
            ({"n_positions": 64, "n_ctx": 32}, "context_length", 64),
            ({"max_position_embeddings": 64}, "context_length", 64),
            ({"hidden_size": 96}, "n_embd", 96),
            ({"num_attention_heads": 6}, "n_head", 6),
            ({"num_hidden_layers": 3}, "n_layer", 3),
            ({"eos_token_id": [5, 6]}, "eos_ids", (5, 6)),
            ({"bos_token_id": None}, "bos_id", None),
            ({"n_inner": None}, "inner", 3072),
            ({"n_inner": 100}, "inner", 100),
            ({"activation_function": "gelu_fast"}, "activation", "gelu_tanh"),
            ({"activation_function": "swish"}, "activation", "silu"),
            ({"attn_pdrop": 0}, "attention_dropout", 0),
            ({"add_cross_attention": False, "reorder_and_upcast_attn": True, "use_cache": 3}, "n_layer", 12),
        ],
    )
    def test_reads_every_spelling(self, settings: dict[str, Any], attribute: str, value: object) -> None:
        assert getattr(read_model_config(settings), attribute) == value

    @pytest.mark.parametrize("changes", [{}, {"n_inner": 7}, {"tie_word_embeddings": False}])
    def test_to_dict_is_its_inverse(self, changes: dict[str, Any]) -> None:
        config = tiny_config(activation_function="gelu", scale_attn_weights=False, **changes)
        assert read_model_config(config_settings(config)) == config


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"model_type": "mamba"}, "model_type 'mamba', which is not supported (supported: gpt2, llama,"),
            (
                {"add_cross_attention": True},
                "add_cross_attention is True, which changes how the model computes",
            ),
            ({"n_layer": 0}, "n_layer must be an integer from 1 to 1,000,000,000,000, not 0"),
            ({"n_layer": "12"}, "n_layer must be an integer from 1 to 1,000,000,000,000, not '12'"),
            ({"n_layer": True}, "n_layer must be an integer from 1 to 1,000,000,000,000, not True"),
            ({"n_embd": 768.0}, "n_embd must be an integer from 1 to 1,000,000,000,000, not 768.0"),
            ({"n_inner": 0}, "n_inner must be an integer from 1 to 1,000,000,000,000, or null, not 0"),
            ({"n_head": 7}, "n_embd 768 is not divisible by n_head 7"),
            (
                {"model_type": "llama", "vocab_size": None},
                "vocab_size must be an integer from 1 to 1,000,000,000,000, not None",
            ),
            ({"embd_pdrop": 1.0}, "embd_pdrop must be a number from 0 to below 1, not 1.0"),
            ({"attn_pdrop": float("nan")}, "attn_pdrop must be a number from 0 to below 1, not nan"),
            (
                {"layer_norm_epsilon": "1e-5"},
                "layer_norm_epsilon must be a number of at least 0 and at most 1e+30, not '1e-5'",
            ),
            ({"scale_attn_weights": "yes"}, "scale_attn_weights must be true or false, not 'yes'"),
            ({"eos_token_id": -1}, "eos_token_id must be a token id or null, not -1"),
            ({"activation_function": "tanhh"}, "activation_function must be one of gelu_new"),
            ({"activation_function": ["relu"]}, "activation_function must be one of gelu_new"),
            ({"n_layer": MAX_LAYERS + 1, "n_embd": 1, "n_head": 1}, "1,001 layers; at most 1,000"),
            ({"vocab_size": 1_302_083_333}, "parameters; at most 100,000,000,000 are supported"),
            ({"n_embd": 10**6, "n_layer": 1000, "n_head": 10}, "parameters; at most 100,000,000,000"),
            ({"n_embd": 10**400}, "n_embd must be an integer from 1 to 1,000,000,000,000, not 1000"),
            (
                {"n_inner": 10**400},
                "n_inner must be an integer from 1 to 1,000,000,000,000, or null, not 1000",
            ),
            ({"layer_norm_epsilon": 10**400}, "must be a number of at least 0 and at most 1e+30, not"),
            ({"attn_pdrop": 10**400}, "must be a number from 0 to below 1, not"),
            ({"eos_token_id": [1, 10**400]}, "must be a token id or null, not"),
        ],
    )
    def test_one_sentence_with_the_value_and_the_limit(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError) as caught:
            read_model_config(settings)
        assert message in str(caught.value)

    def test_all_faults_at_once(self) -> None:
        with pytest.raises(ModelError) as caught:
            read_model_config({"n_layer": 0, "vocab_size": -1, "attn_pdrop": 2.0})
        assert all(name in str(caught.value) for name in ("n_layer", "vocab_size", "attn_pdrop"))


@pytest.mark.parametrize("changes", [{}, {"n_inner": 20}, {"tie_word_embeddings": False}])
def test_parameter_count_is_the_models(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    assert sum(weight.numel() for weight in Decoder(config).parameters()) == config.parameter_count


LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
QWEN2, QWEN3, GEMMA3, NEOX = (
    {**LLAMA, "model_type": kind} for kind in ("qwen2", "qwen3", "gemma3_text", "gpt_neox")
)


def test_null_stands_for_the_default_unless_it_is_a_value() -> None:
    for family, names in {
        "gpt2": ("n_positions", "layer_norm_epsilon", "activation_function", "tie_word_embeddings"),
        "llama": ("rms_norm_eps", "attention_bias", "attention_dropout", "rope_theta"),
        "gemma3_text": ("head_dim", "query_pre_attn_scalar", "layer_types", "rope_local_base_freq"),
        "gpt_neox": ("rotary_pct", "rotary_emb_base", "use_parallel_residual"),
    }.items():
        settings = {**LLAMA, "model_type": family}
        for name in names:
            assert read_model_config({**settings, name: None}) == read_model_config(settings), name
    assert read_model_config({"bos_token_id": None}).bos_id is None
    assert read_model_config({**NEOX, "rotary_emb_base": None, "rope_theta": 50.0}).layers[0].rope.base == 50


@pytest.mark.parametrize(
    ("kind", "bos_id", "eos_ids"),
    [("llama", 1, (2,)), ("qwen2", None, ()), ("qwen3", None, ()), ("gemma3_text", 2, (1,))],
)
def test_what_starts_and_ends_a_text_where_nothing_says_so(kind: str, bos_id: int | None, eos_ids) -> None:
    config = read_model_config({**LLAMA, "model_type": kind})
    assert (config.bos_id, config.eos_ids) == (bos_id, eos_ids)
    null = read_model_config({**LLAMA, "model_type": kind, "bos_token_id": None, "eos_token_id": None})
    assert (null.bos_id, null.eos_ids) == (None, ())


def test_gemma3s_windows_are_counted_by_the_setting_that_transformers_reads() -> None:
    deep = {**GEMMA3, "num_hidden_layers": 6}

    def without_windows(**settings: int) -> list[int]:
        layers = read_model_config({**deep, **settings}).layers
        return [number for number, layer in enumerate(layers, 1) if layer.window is None]

    assert without_windows() == without_windows(_sliding_window_pattern=3) == [6]
    assert without_windows(sliding_window_pattern=3) == [3, 6]


def test_gemma3_without_a_window() -> None:
    full = {**GEMMA3, "layer_types": ["full_attention"] * 2}
    assert read_model_config({**full, "sliding_window": None}) == read_model_config(full)
    assert refusal({**GEMMA3, "sliding_window": None}).endswith(
        "sliding_window is null, but some layers have sliding_attention"
    )


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read_model_config(settings)
    return str(caught.value)


class TestOtherFamilies:
    @pytest.mark.parametrize("settings", [LLAMA, QWEN2, QWEN3, GEMMA3, NEOX])
    def test_read_and_written_unchanged_it_is_what_it_was(self, settings: dict[str, Any]) -> None:
        settings = {**settings, "architectures": ["Some"], "custom": {"kept": [1, None]}}
        written = config_settings(read_model_config(settings))
        assert written.pop("architectures")[0].endswith("ForCausalLM")
        assert written == {name: value for name, value in settings.items() if name != "architectures"}

    def test_only_what_changed_is_written_anew(self) -> None:
        settings = {**LLAMA, "rope_theta": 500.0, "tie_word_embeddings": True}
        written = config_settings(replace(read_model_config(settings), tied=False, attention_dropout=0.25))
        assert written == {
            **settings,
            "tie_word_embeddings": False,
            "attention_dropout": 0.25,
            "architectures": ["LlamaForCausalLM"],
        }

    def test_keys_and_values_have_as_many_heads_as_queries_unless_said(self) -> None:
        assert read_model_config(LLAMA).n_kv_head == 6
        assert read_model_config({**LLAMA, "num_key_value_heads": 3}).n_kv_head == 3

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"model_type": "mistral"},
                "model_type 'mistral', which is not supported (supported: gpt2, llama",
            ),
            ({"model_type": ["llama"]}, "model_type ['llama']"),
            (
                {**LLAMA, "quantization_config": {"bits": 4}},
                "quantization_config is {'bits': 4}, which changes",
            ),
            ({**LLAMA, "num_local_experts": 8}, "num_local_experts is 8"),
            ({**GEMMA3, "final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
            ({**GEMMA3, "attn_logit_softcapping": 50.0}, "(supported: null)"),
            ({**GEMMA3, "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
            (
                {**QWEN2, "use_sliding_window": True},
                "use_sliding_window is True, which changes how the model",
            ),
            (
                {**QWEN3, "layer_types": ["full_attention", "sliding_attention"]},
                "layer_types is ['full_attention'",
            ),
            ({**GEMMA3, "layer_types": ["full_attention", "chunked"]}, "a list of 2, each full_attention or"),
            ({**GEMMA3, "layer_types": ["full_attention"]}, "a list of 2, each full_attention or"),
            ({**LLAMA, "clip_qkv": 8.0}, "clip_qkv is 8.0"),
            ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
            (
                {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
                "rope_scaling.type must be one of",
            ),
            (
                {**LLAMA, "rope_parameters": {"rope_type": "longrope"}},
                "rope_parameters.rope_type must be one of default, linear, llama3, yarn, not 'longrope'",
            ),
            ({**LLAMA, "rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing"),
            ({**LLAMA, "rope_scaling": "linear"}, "rope_scaling must be an object or null, not 'linear'"),
            (
                {**LLAMA, "rope_theta": "1e4"},
                "rope_theta must be a number above 1 and at most 1e+30, not '1e4'",
            ),
            ({**LLAMA, "rope_theta": 0}, "rope_theta must be a number above 1 and at most 1e+30, not 0"),
            ({**LLAMA, "rope_theta": 10**400}, "must be a number above 1 and at most 1e+30, not"),
            (
                {**GEMMA3, "rope_local_base_freq": 1},
                "rope_local_base_freq must be a number above 1 and at most 1e+30, not 1",
            ),
            (
                {**NEOX, "rotary_emb_base": 1.0},
                "rotary_emb_base must be a number above 1 and at most 1e+30, not 1.0",
            ),
            (
                {**NEOX, "rotary_pct": 1e300},
                "rotary_pct must be a number of at least 0 and at most 1e+30, not 1e+300",
            ),
            (
                {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 0, "rope_theta": 1}},
                "rope_parameters.rope_theta must be a number above 1 and at most 1e+30, not 1;"
                " rope_parameters.factor must be a number above 0",
            ),
            (
                {
                    **LLAMA,
                    "rope_scaling": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "original_max_position_embeddings": 0,
                    },
                },
                "rope_scaling.original_max_position_embeddings must be an integer from 1",
            ),
            (
                {**LLAMA, "num_key_value_heads": 4},
                "cannot share 4 heads of keys and values",
            ),
            ({**LLAMA, "head_dim": 5}, "rotary positions cannot rotate 5 of 5 channels of a head"),
            ({**LLAMA, "hidden_act": "xielu"}, "hidden_act must be one of"),
            ({**NEOX, "num_attention_heads": 7}, "hidden_size 24 is not divisible by num_attention_heads 7"),
            ({**NEOX, "rotary_pct": 1.5}, "rotary positions cannot rotate 6 of 4 channels of a head"),
            ({**LLAMA, "num_hidden_layers": 10**12}, "1,000,000,000,000 layers; at most 1,000 are supported"),
        ],
    )
    def test_what_changes_numbers_and_is_not_known_is_refused(self, settings, message: str) -> None:
        assert message in refusal(settings)

    def test_large_models_of_the_families_are_read(self) -> None:
        sizes = {"hidden_size": 6144, "num_attention_heads": 64, "num_hidden_layers": 44}
        twenty_b = {**NEOX, **sizes, "vocab_size": 50432, "intermediate_size": 24576}
        assert read_model_config(twenty_b).parameter_count == 20_554_567_680

    @pytest.mark.parametrize("name", [name for name in LLAMA if name != "model_type"])
    @pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3_text", "gpt_neox"])
    def test_a_size_that_is_missing_is_named(self, name: str, kind: str) -> None:
        settings = {key: value for key, value in LLAMA.items() if key != name}
        assert f"{name} is missing" in refusal({**settings, "model_type": kind})

    @pytest.mark.parametrize(
        "harmless",
        [{"use_cache": False}, {"pretraining_tp": 2}, {"quantization_config": None}],
    )
    def test_what_changes_no_number_is_ignored(self, harmless: dict[str, Any]) -> None:
        assert read_model_config({**LLAMA, **harmless}) == read_model_config(LLAMA)
