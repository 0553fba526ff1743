"""Llama and what is made like it, SmolLM2 among others; Qwen and Gemma took over most of its names."""

from typing import Any

from conjure.lm.models import settings as setting
from conjure.lm.models.families.rotary import flat, read_rope, write_rope
from conjure.lm.models.family import Family, joined_qkv, joined_up, plain
from conjure.lm.models.shape import LayerShape, Shape

FACTS = {
    "vocab_size": setting.whole("vocab_size"),
    "context_length": setting.whole("max_position_embeddings"),
    "n_embd": setting.whole("hidden_size"),
    "n_head": setting.whole("num_attention_heads"),
    "head_size": setting.optional_whole("head_dim"),
    "inner": setting.whole("intermediate_size"),
    "norm_epsilon": setting.number("rms_norm_eps", default=1e-6),
    "activation": setting.activation("hidden_act", default="silu"),
    "tied": setting.flag("tie_word_embeddings", default=False),
    "initializer_range": setting.number("initializer_range", default=0.02),
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
PREFIX, BUFFERS = "model.", r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
_FACTS = {**FACTS, "out_bias": setting.flag("attention_bias"), "mlp_bias": setting.flag("mlp_bias")}


def read(settings: setting.Settings, table: setting.Table, **more: Any) -> Shape:
    """A `Shape` of what a family reads by its table, and of what it adds."""
    facts = {name: value for name, value in settings.facts(table).items() if value is not None} | more
    D = facts.setdefault("head_size", max(1, facts["n_embd"] // facts["n_head"]))
    facts["n_kv_head"] = settings.take(setting.optional_whole("num_key_value_heads")) or facts["n_head"]
    facts.setdefault("qkv_bias", facts.get("out_bias"))
    if "layers" not in facts:
        rope = read_rope(
            settings, flat(settings), head_size=D, base=setting.number("rope_theta", default=1e4)
        )
        count = settings.layers(setting.whole("num_hidden_layers"))
        settings.only("layer_types", ["full_attention"] * count)
        facts["layers"] = (LayerShape(D**-0.5, rope),) * count
    return Shape(norm="rms", gated=True, **facts)


def write(shape: Shape, table: setting.Table) -> dict[str, Any]:
    """What all families that are like it say of a `Shape`."""
    sizes = {"num_hidden_layers": shape.n_layer, "num_key_value_heads": shape.n_kv_head}
    rope = {"rope_parameters": write_rope(shape, shape.layers[0])}
    return {**setting.written(table, shape), **sizes, **rope}


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    lambda settings: read(settings, _FACTS, family="llama"),
    lambda shape: write(shape, _FACTS),
    MODULES,
    PREFIX,
    BUFFERS,
)
