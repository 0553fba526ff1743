"""GPT-NeoX and Pythia: both branches read the same, part of each head rotates, q|k|v are sorted by head."""

from typing import Any

from conjure.lm.models import config_reader as setting
from conjure.lm.models.families.rotary import equal_layers, write_equal_layers
from conjure.lm.models.family import Family, by_head, plain
from conjure.lm.models.shape import Shape

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
_BUFFERS = r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"  # of early checkpoints
_BASE = setting.number("rotary_emb_base", "rope_theta", default=10_000.0, above=1)
_SHARE = setting.number("rotary_pct", "partial_rotary_factor", default=0.25)


def _read(settings: setting.Settings) -> Shape:
    facts = settings.facts(_FACTS)
    D = settings.head_size(_FACTS, facts)
    facts["layers"] = equal_layers(settings, head_size=D, base=_BASE, share=_SHARE)
    parallel = settings.take(setting.flag("use_parallel_residual", default=True))
    facts |= {"n_kv_head": facts["n_head"], "head_size": D, "qkv_bias": facts["out_bias"], "mlp_bias": True}
    residual = "parallel" if parallel else "sequential"
    return Shape(family="gpt_neox", norm="layer", residual=residual, **facts)


def _write(shape: Shape) -> dict[str, Any]:
    residual = {"use_parallel_residual": shape.residual == "parallel"}
    return setting.written(_FACTS, shape) | write_equal_layers(shape) | residual


GPT_NEOX = Family("gpt_neox", "GPTNeoXForCausalLM", _read, _write, _MODULES, "gpt_neox.", _BUFFERS)
