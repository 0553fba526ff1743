"""Gemma 3, text only: norms around each branch, windows in most layers, another rotary base in those."""

from typing import Any

from conjure.lm.models import settings as setting
from conjure.lm.models.families import llama
from conjure.lm.models.families.rotary import read_rope, write_rope
from conjure.lm.models.family import Family, plain
from conjure.lm.models.shape import LayerShape, Shape

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FACTS = {
    **llama.FACTS,
    "activation": setting.activation("hidden_activation", "hidden_act", default="gelu_pytorch_tanh"),
    "head_size": setting.whole("head_dim", default=256),
    "tied": setting.flag("tie_word_embeddings", default=True),
    "out_bias": setting.flag("attention_bias"),
    "bos_id": setting.token_id("bos_token_id", default=2),
    "eos_ids": setting.token_ids("eos_token_id", default=1),
}
_MODULES = {
    **llama.MODULES,
    "blocks.*.attention.query_norm": plain("layers.*.self_attn.q_norm"),
    "blocks.*.attention.key_norm": plain("layers.*.self_attn.k_norm"),
    "blocks.*.attention_post_norm": plain("layers.*.post_attention_layernorm"),
    "blocks.*.mlp_norm": plain("layers.*.pre_feedforward_layernorm"),
    "blocks.*.mlp_post_norm": plain("layers.*.post_feedforward_layernorm"),
}


_WINDOW = setting.whole("sliding_window", default=4096)
_SCALE = setting.whole("query_pre_attn_scalar", default=256)
_PATTERN = setting.whole("sliding_window_pattern", "_sliding_window_pattern", default=6)


def _read(settings: setting.Settings) -> Shape:
    D, scale = settings.take(_FACTS["head_size"]), settings.take(_SCALE) ** -0.5
    nested = settings.inside("rope_parameters")
    all_said = settings.inside("rope_scaling") if settings.has("rope_scaling") else nested.inside(_FULL)
    far = read_rope(settings, all_said, head_size=D, base=setting.number("rope_theta", default=1e6))
    near_base = setting.number("rope_local_base_freq", default=1e4)
    near = read_rope(settings, nested.inside(_SLIDING), head_size=D, base=near_base)
    kinds = {_FULL: LayerShape(scale, far), _SLIDING: LayerShape(scale, near, settings.take(_WINDOW))}
    count, every = settings.layers(setting.whole("num_hidden_layers")), settings.take(_PATTERN)
    usual = [_SLIDING if number % every else _FULL for number in range(1, 1 + count)]
    layers = tuple(kinds[kind] for kind in settings.take(setting.words("layer_types", tuple(kinds), usual)))
    more = {"query_key_norm": True, "norm_offset": 1.0, "residual": "sandwich"}
    scale_of_embedding = settings.take(_FACTS["n_embd"]) ** 0.5
    return llama.read(
        settings, _FACTS, family="gemma3_text", layers=layers, embedding_scale=scale_of_embedding, **more
    )


def _write(shape: Shape) -> dict[str, Any]:
    kinds = [_FULL if layer.window is None else _SLIDING for layer in shape.layers]
    ropes = {kind: write_rope(shape, layer) for kind, layer in zip(kinds, shape.layers, strict=True)}
    windows = [layer.window for layer in shape.layers if layer.window is not None]
    scalar = round(shape.layers[0].score_scale ** -2)
    facts = {"layer_types": kinds, "query_pre_attn_scalar": scalar, "rope_parameters": ropes}
    return {**llama.write(shape, _FACTS), **facts, "sliding_window": (*windows, 4096)[0]}


GEMMA3 = Family("gemma3_text", "Gemma3ForCausalLM", _read, _write, _MODULES, llama.PREFIX, llama.BUFFERS)
