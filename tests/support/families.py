"""Tiny random checkpoints of every family, made by transformers, with shapes that catch what usual ones hide.

No two sizes are alike where they can differ: H ≠ K, D ≠ C / H, windows shorter than the text, part of a head
turned, scaled rotary positions.
"""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

CONTEXT = 160
_LLAMA = {
    "vocab_size": 300,
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 299,
    "eos_token_id": 299,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5000.0,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 40,
    "rope_theta": 10000.0,
    "beta_fast": 4.0,
}
_NEOX = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}
_GEMMA = {**_LLAMA, "head_dim": 12, "sliding_window": 16, "query_pre_attn_scalar": 10, "pad_token_id": 0}

# Name -> transformers' class (its config is called alike), and what its config says.
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 24, "n_head": 3, "n_layer": 2}),
    "llama": ("Llama", {**_LLAMA, "tie_word_embeddings": True, "rms_norm_eps": 0.01}),
    "llama, untied, biases, own head size": (
        "Llama",
        {**_LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "hidden_act": "gelu"},
    ),
    "llama, llama3 scaling": ("Llama", {**_LLAMA, "rope_parameters": _LLAMA3}),
    "llama, linear scaling": (
        "Llama",
        {**_LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
    ),
    "llama, yarn scaling": ("Llama", {**_LLAMA, "rope_parameters": _YARN, "num_key_value_heads": 6}),
    "qwen2": ("Qwen2", {**_LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {**_LLAMA, "head_dim": 16}),
    "qwen3, biases, tied": (
        "Qwen3",
        {**_LLAMA, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "gemma3": ("Gemma3Text", {**_GEMMA, "num_hidden_layers": 7}),
    "gemma3, kinds of layers, linear scaling": (
        "Gemma3Text",
        {
            **_GEMMA,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "gpt_neox": (
        "GPTNeoX",
        {
            **_NEOX,
            "num_attention_heads": 3,
            "rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
        },
    ),
    "gpt_neox, sequential, tied, no attention biases": (
        "GPTNeoX",
        {
            **_NEOX,
            "num_attention_heads": 2,
            "use_parallel_residual": False,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "hidden_act": "gelu_new",
        },
    ),
}
# One of each.
FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma3", "gpt_neox"]


def reference(name: str, *, seed: int = 0, std: float = 0.2, **changes: Any) -> PreTrainedModel:
    """transformers' model of a checkpoint in `CHECKPOINTS`, in `eval` mode, every weight random."""
    kind, settings = CHECKPOINTS[name]
    config = getattr(transformers, f"{kind}Config")(**{**settings, **changes})
    model = getattr(
        transformers, f"{kind.removesuffix('Text')}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}"
    )(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.dim() == 1 and kind != "Gemma3Text" else 0.0
            parameter.copy_(torch.empty_like(parameter).normal_(centre, std, generator=generator))
    return model
