"""Between a checkpoint's tensors and a model's: which of them make one of ours, and how.

Main entries: `assemble` and its inverse, `take_apart`. Invariant: numbers only move, so what is taken apart
and assembled again is the same to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conjure.lm.models.family import Stored
from conjure.lm.models.registry import family_of
from conjure.lm.models.shape import ModelConfig, Shape

if TYPE_CHECKING:  # telling names and shapes does not pay for torch, moving numbers does
    from torch import Tensor


def stored_names(config: ModelConfig, name: str) -> tuple[str, ...]:
    """The checkpoint's tensors, without prefix, that hold our tensor of this name."""
    return family_of(config).stored(name)[1]


def file_names(config: ModelConfig, name: str) -> tuple[str, ...]:
    """The same, as they are called in files: with the family's prefix, which the head goes without."""
    prefix = "" if name.startswith("lm_head.") else family_of(config).prefix
    return tuple(prefix + each for each in stored_names(config, name))


def stored_shapes(config: ModelConfig, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape that each of them needs, given ours."""
    stored, names = family_of(config).stored(name)
    if stored.layout == "transposed":
        return {names[0]: shape[::-1]}
    return {
        each: (rows, *shape[1:]) for each, rows in zip(names, _rows(stored, config, shape[0]), strict=True)
    }


def assemble(config: ModelConfig, name: str, read: "Callable[[str, bool], Tensor]") -> "Tensor":
    """Our tensor of this name.

    Args:
        config: The model's.
        name: Ours.
        read: Reads a stored tensor, given its name, and whether to transpose it if it is a matrix.
    """
    from torch import cat

    stored, names = family_of(config).stored(name)
    transposed = stored.layout == "transposed" and name.endswith("weight")
    parts = [read(each, transposed) for each in names]
    weight = parts[0] if len(parts) == 1 else cat(parts)
    return _regrouped(weight, _heads(config), 3) if stored.layout == "by_head" else weight


def take_apart(config: ModelConfig, name: str, weight: "Tensor") -> "dict[str, Tensor]":
    """What a checkpoint stores in place of our tensor of this name, by its names in files."""
    stored, _ = family_of(config).stored(name)
    parts = split_rows(config, name, weight)
    if stored.layout == "transposed":
        parts = [part.t() for part in parts]
    return dict(zip(file_names(config, name), parts, strict=True))


def split_rows(config: ModelConfig, name: str, weight: "Tensor") -> "Sequence[Tensor]":
    """The rows of our tensor of this name, or of what makes them, by the checkpoint's tensors they go to."""
    stored, _ = family_of(config).stored(name)
    if stored.layout == "by_head":
        weight = _regrouped(weight, 3, _heads(config))
    return weight.split(_rows(stored, config, weight.shape[0]))


def _rows(stored: Stored, config: ModelConfig, all_rows: int) -> list[int]:
    return [all_rows] if stored.rows is None else list(stored.rows(config))


def _heads(config: ModelConfig) -> int:
    assert isinstance(config, Shape), "only a decoder's families sort by head"
    return config.n_head


def _regrouped(weight: "Tensor", outer: int, inner: int) -> "Tensor":
    """Rows sorted by `outer` first and `inner` second, sorted the other way round."""
    return weight.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)
