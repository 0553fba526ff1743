"""How a ``config.json`` says rotary positions, by its old names and by those that transformers 5 gave them.

Main entries: `equal_layers`, `read_rope`, and what undoes them. Old: ``rope_theta`` beside ``rope_scaling``;
new: both in ``rope_parameters``.
"""

from typing import Any

from conjure.lm.models.config_reader import Setting, Settings, choice, flag, number, whole
from conjure.lm.models.shape import LayerShape, Rope, Shape

BASE = number("rope_theta", default=10_000.0, above=1)
SCALINGS: dict[str, tuple[Setting, ...]] = {
    "default": (),
    "linear": (number("factor", above=0),),
    "llama3": (number("factor", above=0), number("low_freq_factor"), number("high_freq_factor")),
    "yarn": (
        number("factor", above=0),
        *(
            number(name, default=None)
            for name in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        ),
        flag("truncate", default=True),
    ),
}
_OF_THE_TRAINED_CONTEXT = ("llama3", "yarn")
_TRAINED_CONTEXT = "original_max_position_embeddings"


def equal_layers(
    settings: Settings, *, head_size: int, base: Setting = BASE, share: Setting | None = None
) -> tuple[LayerShape, ...]:
    """Layers that all rotate queries and keys alike and see everything; arguments as for `read_rope`."""
    parameters = settings.inside("rope_scaling" if settings.has("rope_scaling") else "rope_parameters")
    rope = read_rope(settings, parameters, head_size=head_size, base=base, share=share)
    count = settings.layers("num_hidden_layers")
    settings.only("layer_types", ["full_attention"] * count)
    return (LayerShape(head_size**-0.5, rope),) * count


def write_equal_layers(shape: Shape) -> dict[str, Any]:
    """The same as transformers 5 says it."""
    return {"num_hidden_layers": shape.n_layer, "rope_parameters": write_rope(shape, shape.layers[0])}


def read_rope(
    settings: Settings,
    parameters: Settings,
    *,
    head_size: int,
    base: Setting = BASE,
    share: Setting | None = None,
) -> Rope:
    """Rotary positions.

    Args:
        settings: The whole ``config.json``.
        parameters: The object with these.
        head_size: Channels of a head, D.
        base: Where the base is said outside of `parameters`, and what it is where it is not said at all.
        share: The same for the share of a head that rotates; None where it all has to.
    """
    theta = parameters.take(number("rope_theta", default=settings.take(base), above=1))
    scaling = parameters.take(choice("rope_type", "type", allowed=tuple(SCALINGS)))
    told = {setting.names[0]: parameters.take(setting) for setting in SCALINGS[scaling]}
    if scaling in _OF_THE_TRAINED_CONTEXT:
        longest = settings.take(whole("max_position_embeddings", default=1))
        inside = parameters.take(whole(_TRAINED_CONTEXT, default=longest))
        told[_TRAINED_CONTEXT] = settings.take(whole(_TRAINED_CONTEXT, default=inside))
    if share is None:
        settings.only("partial_rotary_factor", 1)
        parameters.only("partial_rotary_factor", 1)
        return Rope(theta, head_size, scaling, tuple(told.items()))
    part = parameters.take(number("partial_rotary_factor", default=settings.take(share)))
    return Rope(theta, int(head_size * part), scaling, tuple(told.items()))


def write_rope(shape: Shape, layer: LayerShape) -> dict[str, Any]:
    """A layer's rotary positions as transformers 5 says them."""
    rope = layer.rope
    assert rope is not None, "a family of this kind has rotary positions in every layer"
    told = {name: value for name, value in rope.settings if value is not None}
    share = (
        {"partial_rotary_factor": rope.channels / shape.head_size} if rope.channels < shape.head_size else {}
    )
    return {"rope_theta": rope.base, "rope_type": rope.scaling, **told, **share}
