"""GPT-NeoX and Pythia: both branches read the same, part of each head turns, q|k|v are sorted by head."""

from typing import Any

from conjure.lm.models import settings as setting
from conjure.lm.models.families.rotary import flat, read_rope, write_rope
from conjure.lm.models.family import Family, by_head, plain
from conjure.lm.models.shape import LayerShape, Shape

_FACTS = {
    "vocab_size": setting.whole("vocab_size"),
    "context_length": setting.whole("max_position_embeddings"),
    "n_embd": setting.whole("hidden_size"),
    "n_head": setting.whole("num_attention_heads"),
    "inner": setting.whole("intermediate_size"),
    "norm_epsilon": setting.number("layer_norm_eps", default=1e-5),
    "activation": setting.activation("hidden_act", default="gelu"),
    "out_bias": setting.flag("attention_bias", default=True),
    "tied": setting.flag("tie_word_embeddings", default=False),
    "initializer_range": setting.number("initializer_range", default=0.02),
    "embedding_dropout": setting.dropout("hidden_dropout"),
    "residual_dropout": setting.dropout("hidden_dropout"),
    "attention_dropout": setting.dropout("attention_dropout"),
    "bos_id": setting.token_id("bos_token_id", default=0),
    "eos_ids": setting.token_ids("eos_token_id", default=2),
}
_MODULES = {
    "embedding": plain("embed_in"),
    "blocks.*.attention_norm": plain("layers.*.input_layernorm"),
    "blocks.*.attention.qkv": by_head("layers.*.attention.query_key_value"),
    "blocks.*.attention.out": plain("layers.*.attention.dense"),
    "blocks.*.mlp_norm": plain("layers.*.post_attention_layernorm"),
    "blocks.*.mlp.up": plain("layers.*.mlp.dense_h_to_4h"),
    "blocks.*.mlp.down": plain("layers.*.mlp.dense_4h_to_h"),
    "final_norm": plain("final_layer_norm"),
    "lm_head": plain("embed_out"),
}
_BUFFERS = r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
_BASE = setting.number("rotary_emb_base", "rope_theta", default=10_000.0)
_SHARE = setting.number("rotary_pct", "partial_rotary_factor", default=0.25)


def _read(settings: setting.Settings) -> Shape:
    facts = settings.facts(_FACTS)
    C, H = facts["n_embd"], facts["n_head"]
    if C % H:
        settings.fault(f"hidden_size {C} is not divisible by num_attention_heads {H}")
    D = max(1, C // H)
    rope = read_rope(settings, flat(settings), head_size=D, base=_BASE, share=_SHARE)
    facts["layers"] = (LayerShape(D**-0.5, rope),) * settings.layers(setting.whole("num_hidden_layers"))
    parallel = settings.take(setting.flag("use_parallel_residual", default=True))
    facts |= {
        "norm": "layer",
        "qkv_bias": facts["out_bias"],
        "mlp_bias": True,
        "n_kv_head": H,
        "head_size": D,
    }
    return Shape(family="gpt_neox", residual="parallel" if parallel else "sequential", **facts)


def _write(shape: Shape) -> dict[str, Any]:
    more = {"num_hidden_layers": shape.n_layer, "use_parallel_residual": shape.residual == "parallel"}
    return {**setting.written(_FACTS, shape), **more, "rope_parameters": write_rope(shape, shape.layers[0])}


GPT_NEOX = Family("gpt_neox", "GPTNeoXForCausalLM", _read, _write, _MODULES, "gpt_neox.", _BUFFERS)
