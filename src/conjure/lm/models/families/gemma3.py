"""Gemma 3, text only: norms around each branch, windows in most layers, another rotary base in those."""

from typing import Any

from conjure.lm.models import config_reader as setting
from conjure.lm.models.families import llama
from conjure.lm.models.families.rotary import read_rope, write_rope
from conjure.lm.models.family import Family, plain
from conjure.lm.models.shape import LayerShape, Shape

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FACTS = {
    **llama.FACTS,
    **llama.ATTENTION_BIASES,
    "activation": setting.activation("hidden_activation", "hidden_act", default="gelu_pytorch_tanh"),
    "head_size": setting.whole("head_dim", default=256),
    "tied": setting.flag("tie_word_embeddings", default=True),
    "bos_id": setting.token_id("bos_token_id", default=2),
    "eos_ids": setting.token_ids("eos_token_id", default=1),
}
_BASE = setting.number("rope_theta", default=1e6, above=1)
_LOCAL_BASE = setting.number("rope_local_base_freq", default=1e4, above=1)
_MODULES = {
    **llama.MODULES,
    "blocks.*.attention.query_norm": plain("layers.*.self_attn.q_norm"),
    "blocks.*.attention.key_norm": plain("layers.*.self_attn.k_norm"),
    "blocks.*.attention_post_norm": plain("layers.*.post_attention_layernorm"),
    "blocks.*.mlp_norm": plain("layers.*.pre_feedforward_layernorm"),
    "blocks.*.mlp_post_norm": plain("layers.*.post_feedforward_layernorm"),
}


def _read(settings: setting.Settings) -> Shape:
    nested, scaling = settings.inside("rope_parameters"), settings.inside("rope_scaling")
    D = settings.take(_FACTS["head_size"])
    far = read_rope(settings, scaling if scaling.content else nested.inside(_FULL), head_size=D, base=_BASE)
    near = read_rope(settings, nested.inside(_SLIDING), head_size=D, base=_LOCAL_BASE)
    window = settings.take(setting.whole("sliding_window", default=4096))
    scale = settings.take(setting.whole("query_pre_attn_scalar", default=256)) ** -0.5
    kinds = {_FULL: LayerShape(scale, far), _SLIDING: LayerShape(scale, near, window)}
    numbers = range(1, 1 + settings.layers("num_hidden_layers"))
    every = settings.take(setting.whole("sliding_window_pattern", default=6))
    usual = [_SLIDING if number % every else _FULL for number in numbers]
    names = settings.take(setting.words("layer_types", tuple(kinds), usual))
    if _SLIDING in names and settings.content.get("sliding_window", window) is None:
        settings.fault("sliding_window is null, but some layers have sliding_attention")
    layers = [kinds[name] for name in names]
    more = {"norm_offset": 1.0, "query_key_norm": True, "residual": "sandwich", "layers": tuple(layers)}
    more["embedding_scale"] = settings.take(_FACTS["n_embd"]) ** 0.5
    return llama.read(settings, _FACTS, family="gemma3_text", **more)


def _write(shape: Shape) -> dict[str, Any]:
    kinds = [_FULL if layer.window is None else _SLIDING for layer in shape.layers]
    ropes = {kind: write_rope(shape, layer) for kind, layer in zip(kinds, shape.layers, strict=True)}
    window = next((layer.window for layer in shape.layers if layer.window is not None), 4096)
    scalar = round(shape.layers[0].score_scale ** -2)
    facts = {"layer_types": kinds, "query_pre_attn_scalar": scalar, "rope_parameters": ropes}
    return {**llama.write(shape, _FACTS), **facts, "sliding_window": window}


GEMMA3 = Family("gemma3_text", "Gemma3ForCausalLM", _read, _write, _MODULES)
