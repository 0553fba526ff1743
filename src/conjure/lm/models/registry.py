"""Which models there are: from a ``config.json`` to a model's configuration, and back.

Main entries: `read_model_config`, `config_settings`, `build`. Invariant: a configuration that was read and
not changed is written as it was read, to the last setting.

Another architecture joins with `register`: a `Family` whose `read` gives a `ModelConfig` and whose `model`
names a class derived from `conjure.lm.models.base.CausalLM`, made from such a configuration.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from conjure.errors import ModelError
from conjure.lm.models.config_reader import Settings
from conjure.lm.models.families.gemma3 import GEMMA3
from conjure.lm.models.families.gpt2 import GPT2
from conjure.lm.models.families.gpt_neox import GPT_NEOX
from conjure.lm.models.families.llama import LLAMA
from conjure.lm.models.families.qwen2 import QWEN2
from conjure.lm.models.families.qwen3 import QWEN3
from conjure.lm.models.family import Family
from conjure.lm.models.shape import ModelConfig

if TYPE_CHECKING:  # looking at a model does not pay for torch, building one does
    from conjure.lm.models.base import CausalLM

_FAMILIES = {family.name: family for family in (GPT2, LLAMA, QWEN2, QWEN3, GEMMA3, GPT_NEOX)}

# Settings of any model that change numbers, and what is computed here; null and absence always are.
_SUPPORTED: Mapping[str, tuple[object, ...]] = {
    "quantization_config": (),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "use_sliding_window": (False,),
    "use_bidirectional_attention": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "clip_qkv": (),
    "alibi": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "logits_scaling": (1,),
    "logit_scale": (1,),
}


def register(family: Family) -> None:
    """Let models of one more family be loaded and saved."""
    _FAMILIES[family.name] = family


def known_families() -> list[str]:
    """Every ``model_type`` that can be loaded."""
    return list(_FAMILIES)


def registered(name: str) -> Family:
    """The family of this ``model_type``."""
    return _FAMILIES[name]


def family_of(config: ModelConfig) -> Family:
    """The family that reads and writes a model's files."""
    return _FAMILIES[config.family]


def read_model_config(content: Mapping[str, Any]) -> ModelConfig:
    """A model's configuration, of the contents of its ``config.json``.

    Settings that nobody reads here are ignored, unless they are known to change numbers.

    Raises:
        ModelError: It is of no family there is, would be computed otherwise, or cannot be built.
    """
    kind = content.get("model_type", "gpt2")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise ModelError(f"config.json says model_type {kind!r}, which is not supported (supported: {known})")
    settings = Settings(content)
    for name, supported in _SUPPORTED.items():
        settings.only(name, *supported)
    try:
        config = _FAMILIES[kind].read(settings)
    except ModelError:
        settings.refuse()  # its values may be what the fault comes from
        raise
    settings.refuse()
    return replace(config, settings=dict(content))


def config_settings(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a model: the one it was read from, with what has changed since."""
    family = family_of(config)
    now = family.write(config)
    was = family.write(read_model_config(config.settings)) if config.settings else {}
    changed = {name: value for name, value in now.items() if name not in was or was[name] != value}
    kind = {"model_type": family.name, "architectures": [family.architecture]}
    return {**config.settings, **changed, **kind}


def build(config: ModelConfig) -> "CausalLM":
    """A model of this configuration, without weights: they are on torch's ``meta`` device."""
    module, _, name = family_of(config).model.partition(":")
    return getattr(importlib.import_module(module), name).without_weights(config)
