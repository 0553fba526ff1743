"""GPT-2 and its kin: learned positions, layer norms, matrices stored (in, out)."""

from typing import Any

from conjure.lm.models import config_reader as setting
from conjure.lm.models.family import Family, plain, transposed
from conjure.lm.models.shape import LayerShape, Shape

_FACTS = {
    "vocab_size": setting.whole("vocab_size", default=50257),
    "context_length": setting.whole("n_positions", "max_position_embeddings", "n_ctx", default=1024),
    "n_embd": setting.whole("n_embd", "hidden_size", default=768),
    "n_head": setting.whole("n_head", "num_attention_heads", default=12),
    "norm_epsilon": setting.number("layer_norm_epsilon", default=1e-5),
    "activation": setting.activation("activation_function", default="gelu_new"),
    "tied": setting.flag("tie_word_embeddings", default=True),
    "initializer_range": setting.number("initializer_range", default=0.02),
    "embedding_dropout": setting.dropout("embd_pdrop", default=0.1),
    "residual_dropout": setting.dropout("resid_pdrop", default=0.1),
    "attention_dropout": setting.dropout("attn_pdrop", default=0.1),
    "bos_id": setting.token_id("bos_token_id", default=50256),
    "eos_ids": setting.token_ids("eos_token_id", default=50256),
}
_MODULES = {
    "embedding": plain("wte"),
    "position_embedding": plain("wpe"),
    "blocks.*.attention_norm": plain("h.*.ln_1"),
    "blocks.*.attention.qkv": transposed("h.*.attn.c_attn"),
    "blocks.*.attention.out": transposed("h.*.attn.c_proj"),
    "blocks.*.mlp_norm": plain("h.*.ln_2"),
    "blocks.*.mlp.up": transposed("h.*.mlp.c_fc"),
    "blocks.*.mlp.down": transposed("h.*.mlp.c_proj"),
    "final_norm": plain("ln_f"),
    "lm_head": plain("lm_head"),
}


def _read(settings: setting.Settings) -> Shape:
    facts = settings.facts(_FACTS)
    D = settings.head_size(_FACTS, facts)
    scale = D**-0.5 if settings.take(setting.flag("scale_attn_weights", default=True)) else 1.0
    by_layer = settings.take(setting.flag("scale_attn_by_inverse_layer_idx"))
    numbers = range(1, 1 + settings.layers("n_layer", "num_hidden_layers", default=12))
    facts["layers"] = tuple(LayerShape(scale / number if by_layer else scale) for number in numbers)
    facts["inner"] = settings.take(setting.optional_whole("n_inner")) or 4 * facts["n_embd"]
    facts |= {"n_kv_head": facts["n_head"], "head_size": D, "norm": "layer", "learned_positions": True}
    return Shape(family="gpt2", qkv_bias=True, out_bias=True, mlp_bias=True, **facts)


def _write(shape: Shape) -> dict[str, Any]:
    first, last = shape.layers[0].score_scale, shape.layers[-1].score_scale
    scales = {"scale_attn_weights": first != 1.0, "scale_attn_by_inverse_layer_idx": first != last}
    inner = shape.inner if shape.inner != 4 * shape.n_embd else None
    sizes = {"n_layer": shape.n_layer, "n_ctx": shape.context_length, "n_inner": inner}
    return {**setting.written(_FACTS, shape), **sizes, **scales}


_BUFFERS = r"h\.\d+\.attn\.(masked_)?bias"  # the causal mask, which early checkpoints stored
GPT2 = Family("gpt2", "GPT2LMHeadModel", _read, _write, _MODULES, "transformer.", _BUFFERS)
