"""A family of checkpoints: how its ``config.json`` and its tensors say what our models say.

Main entry: `Family`. A family is data and pure functions, without torch. Invariant: what `read` takes from a
``config.json``, `write` says again, so that nothing is lost on the way through a model of ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from conjure.lm.models.config_reader import Settings
from conjure.lm.models.shape import ModelConfig

Layout = Literal["plain", "transposed", "by_head"]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a checkpoint keeps the weight, and the bias if there is one, of one of our modules.

    Attributes:
        names: Of the checkpoint's module, without the family's prefix. Where there are several, ours has
            their rows below one another.
        rows: Tells how many rows each of several has, given the model's configuration.
        layout: ``plain``; ``transposed``: the matrix is (in, out) there; ``by_head``: its rows are sorted by
            head first and by query, key and value second, ours the other way round.
    """

    names: tuple[str, ...]
    rows: Callable[[Any], tuple[int, ...]] | None = None
    layout: Layout = "plain"


def plain(name: str) -> Stored:
    """A module that is the same there."""
    return Stored((name,))


def transposed(name: str) -> Stored:
    """A matrix that is (in, out) there."""
    return Stored((name,), layout="transposed")


def by_head(name: str) -> Stored:
    """Queries, keys and values, sorted by head first."""
    return Stored((name,), layout="by_head")


def joined_qkv(*names: str) -> Stored:
    """Queries, keys and values, each a matrix of its own there."""
    return Stored(names, rows=attrgetter("qkv_rows"))


def joined_up(*names: str) -> Stored:
    """A gated feed-forward layer's two first matrices, the gate's first."""
    return Stored(names, rows=attrgetter("up_rows"))


Modules = Mapping[str, Stored]
"""Our names of modules, with * for the number of a layer, and where a checkpoint keeps them."""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    Attributes:
        name: ``model_type`` in its ``config.json``.
        architecture: The class that transformers loads it with.
        read: Makes a configuration of a ``config.json``.
        write: Says it again, by transformers' names.
        modules: Where the checkpoint keeps its tensors.
        prefix: What the checkpoint may put before every name but the head's.
        buffers: A regular expression of stored tensors that are no weights.
        model: The class of the model, as ``module:class``.
    """

    name: str
    architecture: str
    read: Callable[[Settings], ModelConfig]
    write: Callable[[Any], dict[str, Any]]
    modules: Modules
    prefix: str = "model."
    buffers: str = r"(.*\.)?rotary_emb\.inv_freq"
    model: str = "conjure.lm.models.decoder:Decoder"

    @property
    def has_head(self) -> bool:
        """Whether a model can have a head of its own."""
        return "lm_head" in self.modules

    def ours(self, stored_name: str) -> str | None:
        """Our name of a tensor that has one module of its own in a checkpoint; None where it is no such.

        Args:
            stored_name: The checkpoint's, without prefix.
        """
        pattern, number, kind = _pattern(stored_name)
        modules = {stored.names[0]: ours for ours, stored in self.modules.items() if len(stored.names) == 1}
        return f"{modules[pattern].replace('*', number)}.{kind}" if pattern in modules else None

    def stored(self, name: str) -> tuple[Stored, tuple[str, ...]]:
        """Where one of our tensors is kept: how, and the names of the checkpoint's tensors.

        Args:
            name: Ours, such as ``blocks.3.mlp.up.weight``.
        """
        pattern, number, kind = _pattern(name)
        stored = self.modules[pattern]
        return stored, tuple(f"{each.replace('*', number)}.{kind}" for each in stored.names)


def _pattern(name: str) -> tuple[str, str, str]:
    """A tensor's module with * for the number of its layer, that number, and which of its tensors it is."""
    module, _, kind = name.rpartition(".")
    number = next((part for part in module.split(".") if part.isdigit()), "")
    return module.replace(f".{number}.", ".*."), number, kind
