"""Small GGUF files, written with the gguf library from models of transformers with random weights."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from conjure.lm.checkpoints.gguf.families import EMBEDDING, FAMILIES, HEAD
from conjure.lm.checkpoints.gguf.header import GGUFShape, llama3_divisors
from conjure.lm.checkpoints.gguf.writing import add_keys
from support.models import tiny_tokenizer

VOCABULARY = 320  # twenty rows more than the tiny tokenizer has tokens
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 299,
    "eos_token_id": 299,
    "pad_token_id": 299,
}
_GATED = {**_SMALL, "num_key_value_heads": 2}
CONFIGS = {
    "smallest": lambda: transformers.LlamaConfig(
        **{**_GATED, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    ),
    "llama": lambda: transformers.LlamaConfig(**_GATED, rope_theta=5000.0, tie_word_embeddings=False),
    "llama3": lambda: transformers.LlamaConfig(
        **_GATED, rope_theta=500.0, rope_scaling=dict(LLAMA3), tie_word_embeddings=True
    ),
    "llama-biases": lambda: transformers.LlamaConfig(**_GATED, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: transformers.Qwen2Config(**_GATED, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**_GATED, head_dim=32, tie_word_embeddings=True),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **{**_GATED, "num_hidden_layers": 7}, head_dim=32, sliding_window=16, query_pre_attn_scalar=32
    ),
    "gptneox": lambda: transformers.GPTNeoXConfig(**_SMALL, rotary_pct=0.25),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=299,
        eos_token_id=299,
    ),
}


def random_model(name: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A model of one of `CONFIGS`, with weights large enough for a wrong one to show."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.tie_weights()
    return model


def keys_of(model: transformers.PreTrainedModel) -> tuple[str, dict[str, Any]]:
    """llama.cpp's name of the architecture, and the keys that describe the shape."""
    config = model.config
    kind = {"gpt_neox": "gptneox", "gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    channels, heads = config.hidden_size, config.num_attention_heads
    inner = 4 * channels if kind == "gpt2" else config.intermediate_size
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": channels,
        "feed_forward_length": inner,
        "attention.head_count": heads,
    }
    if kind == "gpt2":
        keys["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
        return kind, keys
    if kind == "gptneox":
        keys["attention.layer_norm_epsilon"] = config.layer_norm_eps
        keys["rope.dimension_count"] = channels // heads // 4
        return kind, keys
    keys["attention.head_count_kv"] = config.num_key_value_heads
    keys["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    keys["attention.key_length"] = keys["attention.value_length"] = getattr(
        config, "head_dim", channels // heads
    )
    rope = config.rope_parameters
    keys["rope.freq_base"] = float(rope.get("full_attention", rope)["rope_theta"])
    if kind == "gemma3":
        keys["attention.sliding_window"] = config.sliding_window
    return kind, keys


def stored(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """The tensors by GGUF's names and in its layout."""
    kind, keys = keys_of(model)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    if kind == "gptneox":  # transformers renames it while loading and saving
        state["embed_out.weight"] = state.pop("lm_head.weight")
    shape = GGUFShape.from_keys(
        {"general.architecture": kind, **{f"{kind}.{key}": value for key, value in keys.items()}},
        vocabulary=VOCABULARY,
        tied=False,
        rope_divisors=None,
    )
    rules = FAMILIES[kind].rules(shape.layers)
    tensors = {
        name: np.ascontiguousarray(rule.write(state[rule.name], shape))
        for name, rule in rules.items()
        if rule.name in state
    }
    if model.config.tie_word_embeddings:
        tensors.pop(HEAD, None)
    scaling = getattr(model.config, "rope_parameters", None) or {}
    if scaling.get("rope_type") == "llama3":
        divisors = llama3_divisors(LLAMA3, shape.rope_base, shape.rope_size)
        tensors["rope_freqs.weight"] = np.array(divisors, np.float32)
    return tensors


def matrices(name: str) -> list[str]:
    """The names of a model's matrices."""
    return [tensor for tensor, numbers in stored(random_model(name)).items() if numbers.ndim == 2]


def write_gguf(
    path: Path,
    name: str = "llama",
    *,
    seed: int = 0,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    kinds: dict[str, str] | None = None,
    vocabulary: int = VOCABULARY,
) -> Path:
    """Write a model of `CONFIGS` with the tiny tokenizer.

    Args:
        path: The new file.
        name: Of the configuration.
        seed: Of the weights.
        keys: Changed or, where None, left out; whole names.
        tensors: Changed, added or, where None, left out.
        kinds: Number format of tensors, ``F32`` where none is given.
        vocabulary: Rows of the embedding; those beyond the model's are zero.
    """
    model = random_model(name, seed)
    kind, shape_keys = keys_of(model)
    tokenizer = tiny_tokenizer()
    content: dict[str, Any] = {
        **{f"{kind}.{key}": value for key, value in shape_keys.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.token_type": [1] * (tokenizer.vocab_size - 1) + [3],
        "tokenizer.ggml.merges": tokenizer.merges,
        "tokenizer.ggml.bos_token_id": 299,
        "tokenizer.ggml.eos_token_id": 299,
        "tokenizer.ggml.add_bos_token": False,
        **(keys or {}),
    }
    architecture = content.pop("general.architecture", kind)
    writer = gguf.GGUFWriter(path, architecture)
    add_keys(writer, {key: value for key, value in content.items() if value is not None})
    for tensor, numbers in {**stored(model), **(tensors or {})}.items():
        if tensor in (EMBEDDING, HEAD) and numbers is not None:
            numbers = np.pad(numbers, ((0, vocabulary - len(numbers)), (0, 0)))
        if numbers is not None:
            wanted = gguf.GGMLQuantizationType[(kinds or {}).get(tensor, "F32")]
            writer.add_tensor(tensor, gguf.quantize(numbers, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
