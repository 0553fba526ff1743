"""What there is to know of a model before it is built: its sizes, and for a decoder every fact of its shape.

Main entries: `ModelConfig`, which any architecture extends, and `Shape`, the decoder's. Nothing here needs
torch. Invariant: a `Shape` that exists describes a model that can be built.

Letters, here and in the decoder: V vocabulary, C channels, L layers, H query heads, K heads of keys and
values, D head size, F inner size.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from conjure.errors import ModelError

# A config is input from outside: beyond these the request is a mistake (Qwen2.5-72B has 7.3e10 and 80).
MAX_PARAMETERS = 100_000_000_000
MAX_LAYERS = 1_000


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """What the rest of conjure asks of every model.

    Attributes:
        family: Name of the family that reads and writes its files (`conjure.lm.models.registry`).
        vocab_size: Number of token ids, V.
        context_length: Longest sequence, in tokens.
        n_embd: Channels of the hidden states, C.
        tied: The head is the token embedding; else it has weights of its own.
        bos_id: Token that starts a document; None where there is none.
        eos_ids: Tokens that end one. Neither is ever looked up in the embedding unchecked: configs of small
            models often keep the ids of larger ones.
        embedding_dropout: Dropout after the embeddings, while training.
        residual_dropout: Dropout on each branch before it joins the residual stream, while training.
        attention_dropout: Dropout on attention weights, while training.
        settings: The ``config.json`` it was read from, as it was; empty where there was none.
    """

    family: str
    vocab_size: int
    context_length: int
    n_embd: int
    tied: bool = True
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    @abstractmethod
    def n_layer(self) -> int:
        """Number of layers, L."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Number of distinct weights; a tied head counts once."""

    @property
    def has_rotary_positions(self) -> bool:
        """Whether a token sees only how far away others are, not where in the sequence it is itself."""
        return False


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions (`conjure.lm.nn.rope`).

    Attributes:
        base: Of the angles, often called theta.
        channels: How many of a head's channels rotate, the first ones.
        scaling: ``default``, ``linear``, ``llama3`` or ``yarn``.
        settings: What the scaling is told, by name.
    """

    base: float
    channels: int
    scaling: str = "default"
    settings: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What may differ from layer to layer.

    Attributes:
        score_scale: What a query times a key is multiplied by.
        rope: How queries and keys are rotated; None leaves them as they are.
        window: A token sees this many, itself included; None means all before it.
    """

    score_scale: float
    rope: Rope | None = None
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shape(ModelConfig):
    """A decoder's facts; `conjure.lm.models.decoder` reads each in one place.

    Attributes:
        n_head: Query heads, H.
        n_kv_head: Heads of keys and values, K; each serves H / K query heads.
        head_size: Channels of a head, D.
        inner: Channels inside the feed-forward layer, F.
        layers: What may differ from layer to layer, in order.
        norm: ``layer`` (mean and variance, with a bias) or ``rms``.
        norm_epsilon: Added under the root.
        norm_offset: Added to the weights of every ``rms`` norm.
        query_key_norm: Queries and keys are normed, head by head, before they are rotated.
        qkv_bias: Queries, keys and values have biases.
        out_bias: The attention's output has one.
        mlp_bias: Both feed-forward matrices have one.
        gated: The feed-forward layer's inside is multiplied by an activated gate, else activated itself.
        activation: ``gelu_tanh``, ``gelu``, ``relu`` or ``silu``.
        residual: ``sequential``: the feed-forward layer reads what the attention gave; ``parallel``: both
            read the same; ``sandwich``: as sequential, and each branch is normed after itself too.
        learned_positions: There is an embedding for each position.
        embedding_scale: What token embeddings are multiplied by, rounded to their number format.
        initializer_range: Standard deviation of fresh weights.
    """

    n_head: int
    n_kv_head: int
    head_size: int
    inner: int
    layers: tuple[LayerShape, ...]
    norm: Literal["layer", "rms"]
    norm_epsilon: float
    norm_offset: float = 0.0
    query_key_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = False
    activation: str
    residual: Literal["sequential", "parallel", "sandwich"] = "sequential"
    learned_positions: bool = False
    embedding_scale: float = 1.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        """Refuse, all at once, what cannot be a model."""
        faults = [*self._faults()]
        if faults:
            raise ModelError(f"this model configuration cannot be built: {'; '.join(faults)}")

    def _faults(self) -> Iterator[str]:
        if self.n_head % self.n_kv_head:
            yield f"{self.n_head} attention heads cannot share {self.n_kv_head} heads of keys and values"
        for rope in {layer.rope for layer in self.layers if layer.rope is not None}:
            if not 0 < rope.channels + rope.channels % 2 <= self.head_size:
                yield f"rotary positions cannot rotate {rope.channels} of {self.head_size} channels of a head"
        if self.parameter_count > MAX_PARAMETERS:
            yield f"it has {self.parameter_count:,} parameters; at most {MAX_PARAMETERS:,} are supported"

    @property
    def n_layer(self) -> int:
        """Number of layers, L."""
        return len(self.layers)

    @property
    def has_rotary_positions(self) -> bool:
        """Whether all layers tell positions by rotating queries and keys."""
        return not self.learned_positions and all(layer.rope is not None for layer in self.layers)

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Outputs for all queries, keys and values, which are rows of one matrix."""
        return self.n_head * self.head_size, self.n_kv_head * self.head_size, self.n_kv_head * self.head_size

    @property
    def up_rows(self) -> tuple[int, ...]:
        """Outputs of the feed-forward layer's first matrix: those of its gate, and F."""
        return (self.inner, self.inner) if self.gated else (self.inner,)

    @property
    def parameter_count(self) -> int:
        """Number of distinct weights; a tied head counts once."""
        return sum(map(math.prod, self.parameter_shapes().values()))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, as the decoder has them."""
        C, D = self.n_embd, self.head_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, C)}
        if self.learned_positions:
            shapes["position_embedding.weight"] = (self.context_length, C)
        for number in range(self.n_layer):
            block = f"blocks.{number}"
            branches = ("attention_norm", "mlp_norm")
            after = ("attention_post_norm", "mlp_post_norm") if self.residual == "sandwich" else ()
            heads = ("attention.query_norm", "attention.key_norm") if self.query_key_norm else ()
            for name, size in [(each, C) for each in (*branches, *after)] + [(each, D) for each in heads]:
                shapes |= self._norm_shapes(f"{block}.{name}", size)
            for name, rows, columns, biased in (
                ("attention.qkv", sum(self.qkv_rows), C, self.qkv_bias),
                ("attention.out", C, self.qkv_rows[0], self.out_bias),
                ("mlp.up", sum(self.up_rows), C, self.mlp_bias),
                ("mlp.down", C, self.inner, self.mlp_bias),
            ):
                shapes[f"{block}.{name}.weight"] = (rows, columns)
                if biased:
                    shapes[f"{block}.{name}.bias"] = (rows,)
        shapes |= self._norm_shapes("final_norm", C)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, C)
        return shapes

    def _norm_shapes(self, name: str, size: int) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias") if self.norm == "layer" else ("weight",)
        return {f"{name}.{kind}": (size,) for kind in kinds}
