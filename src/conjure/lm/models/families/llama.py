"""Llama and what is made like it, SmolLM2 among others; Qwen and Gemma took over most of its names."""

from functools import partial
from typing import Any

from conjure.lm.models import config_reader as setting
from conjure.lm.models.families.rotary import equal_layers, write_equal_layers
from conjure.lm.models.family import Family, Modules, joined_qkv, joined_up, plain
from conjure.lm.models.shape import Shape

FACTS = {
    "vocab_size": setting.whole("vocab_size"),
    "context_length": setting.whole("max_position_embeddings"),
    "n_embd": setting.whole("hidden_size"),
    "n_head": setting.whole("num_attention_heads"),
    "n_kv_head": setting.optional_whole("num_key_value_heads"),
    "head_size": setting.optional_whole("head_dim"),
    "inner": setting.whole("intermediate_size"),
    "norm_epsilon": setting.number("rms_norm_eps", default=1e-6),
    "activation": setting.activation("hidden_act", default="silu"),
    "tied": setting.flag("tie_word_embeddings", default=False),
    "attention_dropout": setting.dropout("attention_dropout"),
    "bos_id": setting.token_id("bos_token_id"),
    "eos_ids": setting.token_ids("eos_token_id"),
}
MODULES = {
    "embedding": plain("embed_tokens"),
    "blocks.*.attention_norm": plain("layers.*.input_layernorm"),
    "blocks.*.attention.qkv": joined_qkv(*(f"layers.*.self_attn.{name}_proj" for name in "qkv")),
    "blocks.*.attention.out": plain("layers.*.self_attn.o_proj"),
    "blocks.*.mlp_norm": plain("layers.*.post_attention_layernorm"),
    "blocks.*.mlp.up": joined_up("layers.*.mlp.gate_proj", "layers.*.mlp.up_proj"),
    "blocks.*.mlp.down": plain("layers.*.mlp.down_proj"),
    "final_norm": plain("norm"),
    "lm_head": plain("lm_head"),
}
ATTENTION_BIASES = dict.fromkeys(("qkv_bias", "out_bias"), setting.flag("attention_bias"))


def read(settings: setting.Settings, table: setting.Table, **more: Any) -> Shape:
    """A `Shape` of what a family reads by its table, and of what it adds."""
    facts = settings.facts(table) | more
    D = facts["head_size"] = facts["head_size"] or max(1, facts["n_embd"] // facts["n_head"])
    facts["n_kv_head"] = facts["n_kv_head"] or facts["n_head"]
    facts["layers"] = facts.get("layers") or equal_layers(settings, head_size=D)
    return Shape(norm="rms", gated=True, **facts)


def write(shape: Shape, table: setting.Table) -> dict[str, Any]:
    """What all families that are like it say of a `Shape`."""
    return setting.written(table, shape) | write_equal_layers(shape)


def family(name: str, kind: str, table: setting.Table, modules: Modules = MODULES, **more: Any) -> Family:
    """A family that says nothing that Llama does not."""
    reader = partial(read, table=table, family=name, **more)
    return Family(name, kind, reader, partial(write, table=table), modules)


_LLAMA_FACTS = {
    **FACTS,
    **ATTENTION_BIASES,
    "mlp_bias": setting.flag("mlp_bias"),
    "bos_id": setting.token_id("bos_token_id", default=1),
    "eos_ids": setting.token_ids("eos_token_id", default=2),
}
LLAMA = family("llama", "LlamaForCausalLM", _LLAMA_FACTS)
