"""Qwen3: Llama with normed queries and keys."""

from conjure.lm.models import config_reader as setting
from conjure.lm.models.families import llama
from conjure.lm.models.family import plain

_FACTS = {**llama.FACTS, **llama.ATTENTION_BIASES, "head_size": setting.whole("head_dim", default=128)}
_MODULES = {
    **llama.MODULES,
    "blocks.*.attention.query_norm": plain("layers.*.self_attn.q_norm"),
    "blocks.*.attention.key_norm": plain("layers.*.self_attn.k_norm"),
}

QWEN3 = llama.family("qwen3", "Qwen3ForCausalLM", _FACTS, _MODULES, query_key_norm=True)
