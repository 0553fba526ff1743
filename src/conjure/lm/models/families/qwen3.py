"""Qwen3: Llama with normed queries and keys."""

from conjure.lm.models import settings as setting
from conjure.lm.models.families import llama
from conjure.lm.models.family import Family, plain

_FACTS = {
    **llama.FACTS,
    "head_size": setting.whole("head_dim", default=128),
    "out_bias": setting.flag("attention_bias"),
}
_MODULES = {
    **llama.MODULES,
    "blocks.*.attention.query_norm": plain("layers.*.self_attn.q_norm"),
    "blocks.*.attention.key_norm": plain("layers.*.self_attn.k_norm"),
}

QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    lambda settings: llama.read(settings, _FACTS, family="qwen3", query_key_norm=True),
    lambda shape: llama.write(shape, _FACTS),
    _MODULES,
    llama.PREFIX,
    llama.BUFFERS,
)
