"""Reading a ``config.json``: each value checked as it is taken, all faults told together.

Main entries: `Settings`, and the kinds of `Setting` that it takes. Invariant: a faulty value is replaced by
a harmless one and remembered, so that reading goes on; no model is made before `Settings.refuse` was asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from conjure.errors import ModelError
from conjure.lm.models.shape import MAX_LAYERS

# transformers' names for the feed-forward layer's function -> ours. The first of each of ours is written.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_REQUIRED: Any = object()  # a default that there is not
# Beyond any model, and small enough to compute with: as floats, and the second as float32.
_LARGEST_WHOLE, _LARGEST_NUMBER = 10**12, 1e30
_EXCERPT = 120


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a ``config.json``.

    Attributes:
        names: Its spellings: the first one that is there counts, and the very first is written.
        allows: Whether a value can be one.
        wanted: What can be one, in words.
        default: Where it is not there; `_REQUIRED` where it has to be.
        harmless: What to go on with after a fault.
        parse: Makes our value of it.
        spell: Makes it of our value.
    """

    names: tuple[str, ...]
    allows: Callable[[Any], bool]
    wanted: str
    default: Any = _REQUIRED
    harmless: Any = None
    parse: Callable[[Any], Any] = lambda value: value
    spell: Callable[[Any], Any] = lambda value: value


Table = Mapping[str, Setting]
"""Our names of facts, and the settings that say them."""


def whole(*names: str, default: int = _REQUIRED) -> Setting:
    """An integer of at least 1."""
    wanted = f"an integer from 1 to {_LARGEST_WHOLE:,}"
    return Setting(names, lambda value: _is_whole(value) and value >= 1, wanted, default, 1)


def optional_whole(*names: str) -> Setting:
    """The same, or null."""
    wanted = f"an integer from 1 to {_LARGEST_WHOLE:,}, or null"
    return Setting(names, lambda value: value is None or (_is_whole(value) and value >= 1), wanted, None)


def number(*names: str, default: float | None = _REQUIRED, above: float | None = None) -> Setting:
    """A number of at least 0, or above a bound, as a float; where the default is null, also that."""

    def allows(value: Any) -> bool:
        if value is None:
            return default is None
        return _is_number(value) and (value >= 0 if above is None else value > above)

    harmless = 1.0 + (above or 0.0) if default is _REQUIRED else default
    least = "of at least 0" if above is None else f"above {above:g}"
    wanted = f"a number {least} and at most {_LARGEST_NUMBER:g}"
    # JSON has 100000 for 100000.0; a GGUF file has another kind of number for each.
    return Setting(names, allows, wanted, default, harmless, parse=_as_float)


def flag(name: str, *, default: bool = False) -> Setting:
    """True or false."""
    return Setting((name,), lambda value: isinstance(value, bool), "true or false", default, default)


def dropout(*names: str, default: float = 0.0) -> Setting:
    """A probability of dropping."""
    wanted = "a number from 0 to below 1"
    return Setting(names, lambda value: _is_number(value) and 0 <= value < 1, wanted, default, default)


def activation(*names: str, default: str) -> Setting:
    """The feed-forward layer's function."""
    return Setting(
        names,
        lambda value: isinstance(value, str) and value in _ACTIVATIONS,
        f"one of {', '.join(_ACTIVATIONS)}",
        default,
        default,
        parse=_ACTIVATIONS.__getitem__,
        spell=lambda ours: default if _ACTIVATIONS[default] == ours else _spelling(ours),
    )


def choice(*names: str, allowed: tuple[str, ...]) -> Setting:
    """One of some words, by default the first."""
    wanted = f"one of {', '.join(allowed)}"
    return Setting(
        names, lambda value: isinstance(value, str) and value in allowed, wanted, allowed[0], allowed[0]
    )


def words(name: str, allowed: tuple[str, ...], default: list[str]) -> Setting:
    """A list of as many words as in the default, all of them allowed."""

    def allows(value: Any) -> bool:
        known = isinstance(value, list) and all(isinstance(word, str) and word in allowed for word in value)
        return known and len(value) == len(default)

    wanted = f"a list of {len(default)}, each {' or '.join(allowed)}"
    return Setting((name,), allows, wanted, default, default)


def token_id(name: str, *, default: int | None = None) -> Setting:
    """A token's id, or null; of several the first."""
    return Setting(
        (name,),
        _are_token_ids,
        "a token id or null",
        default,
        parse=lambda ids: next(iter(_listed(ids)), None),
    )


def token_ids(name: str, *, default: int | None = None) -> Setting:
    """Ids of tokens: one, several, or null."""
    spell = {0: lambda _: None, 1: lambda ids: ids[0]}
    return Setting(
        (name,),
        _are_token_ids,
        "a token id or null",
        default,
        parse=_listed,
        spell=lambda ids: spell.get(len(ids), list)(ids),
    )


class Settings:
    """The contents of a ``config.json``, or of an object in it."""

    def __init__(self, content: Mapping[str, Any], faults: list[str] | None = None, path: str = "") -> None:
        self.content, self._path = content, path
        self._faults: list[str] = faults if faults is not None else []

    def refuse(self) -> None:
        """Raise what has been found wrong so far.

        Raises:
            ModelError: Something was.
        """
        if self._faults:
            raise ModelError(f"this model configuration cannot be built: {'; '.join(self._faults)}")

    def fault(self, words: str) -> None:
        """Remember a fault."""
        if words not in self._faults:
            self._faults.append(words)

    def has(self, name: str) -> bool:
        """Whether this is set, and not to null."""
        return self.content.get(name) is not None

    def inside(self, name: str) -> "Settings":
        """The settings in the object of this name; none where there is no such object."""
        content = self.content.get(name)
        if content is not None and not isinstance(content, dict):
            self.fault(f"{self._path}{name} must be an object or null, not {_excerpt(content)}")
        return Settings(content if isinstance(content, dict) else {}, self._faults, f"{self._path}{name}.")

    def take(self, setting: Setting) -> Any:
        """The value of a setting; null stands for its default, unless null is a value that it can have."""
        there = [name for name in setting.names if name in self.content]
        if setting.default is not _REQUIRED and not setting.allows(None):
            there = [name for name in there if self.has(name)]
        name = next(iter(there), None)
        if name is None and setting.default is _REQUIRED:
            self.fault(f"{self._path}{setting.names[0]} is missing")
            return setting.harmless
        value = self.content[name] if name is not None else setting.default
        if name is not None and not setting.allows(value):
            self.fault(f"{self._path}{name} must be {setting.wanted}, not {_excerpt(value)}")
            value = setting.harmless
        return setting.parse(value)

    def facts(self, table: Table) -> dict[str, Any]:
        """The values of all settings of a table, by its keys."""
        return {fact: self.take(setting) for fact, setting in table.items()}

    def head_size(self, table: Table, facts: Mapping[str, Any]) -> int:
        """Channels of a head, where the heads share all channels: the table's ``n_embd`` and ``n_head``."""
        channels, heads = facts["n_embd"], facts["n_head"]
        if channels % heads:
            names = table["n_embd"].names[0], table["n_head"].names[0]
            self.fault(f"{names[0]} {channels} is not divisible by {names[1]} {heads}")
        return max(1, channels // heads)

    def layers(self, *names: str, default: int = _REQUIRED) -> int:
        """The number of layers."""
        layers = self.take(whole(*names, default=default))
        if layers > MAX_LAYERS:
            self.fault(f"it has {layers:,} layers; at most {MAX_LAYERS:,} are supported")
            return 1
        return layers

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a setting that would change numbers in a way that is not computed here; null never does."""
        value = self.content.get(name)
        if value is not None and value not in allowed:
            supported = " or ".join(map(_as_json, allowed or (None,)))
            self.fault(
                f"{self._path}{name} is {_excerpt(value)}, which changes how the model computes and is not"
                f" supported (supported: {supported})"
            )


def written(table: Table, config: object) -> dict[str, Any]:
    """A configuration's facts as a ``config.json`` has them, by the table they were read with."""
    return {setting.names[0]: setting.spell(getattr(config, fact)) for fact, setting in table.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_WHOLE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _as_float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _are_token_ids(value: Any) -> bool:
    ids = _listed(value)
    return value is None or (len(ids) > 0 and all(_is_whole(each) and each >= 0 for each in ids))


def _listed(ids: Any) -> tuple[Any, ...]:
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)


def _spelling(ours: str) -> str:
    return next(name for name, each in _ACTIVATIONS.items() if each == ours)


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"


def _as_json(value: object) -> str:
    return "null" if value is None else str(value).lower()
