"""What the rest of conjure knows of a model: the class that every architecture derives from.

Main entry: `CausalLM`. Generation, scoring, training, the plan and the report use nothing else of a model, so
an architecture that keeps these promises works everywhere (docs/models.md shows one of 40 lines). Invariant:
cached, padded and batched forward passes give the hidden states of the plain one.

Tensor letters: B batch, T time (new tokens), C channels, V vocabulary.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from conjure.lm.models.shape import ModelConfig
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.linear import linear


class Cache(Protocol):
    """What a model remembers of the tokens that a batch of rows has read."""

    @property
    def length(self) -> int:
        """Tokens read so far."""
        ...

    @property
    def capacity(self) -> int:
        """Most tokens it can hold."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 indices, (B',), in this order; repeats copy a row."""
        ...


class CausalLM(nn.Module, ABC):
    """A language model that predicts each token from those before it.

    Calling it gives hidden states; `head` turns those one cares about into logits, so that nobody pays for a
    (B, T, V) tensor where the last position is all that is wanted. A new one has no weights yet: call
    `initialise`, or load a checkpoint.

    Attributes:
        config: What it is.
        dropout: Its one source of dropout masks, which training seeds.
        blocks: Its layers, in order. Freezing takes the first of them, LoRA their linear layers, and a GPU
            compiles them one by one.
    """

    blocks: nn.ModuleList

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout()

    @classmethod
    def without_weights(cls, config: ModelConfig) -> Self:
        """A model whose weights are only described (torch's ``meta`` device), to be assigned."""
        with torch.device("meta"):
            return cls(config)

    def empty_copy(self, **changes: Any) -> Self:
        """The same model without weights, some fields of its configuration changed."""
        return self.without_weights(replace(self.config, **changes))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(self.parameters()).dtype

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return self.config.n_layer

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold; a model without a limit says a large number.

        A row that is full goes on from the last half of its tokens, read again.
        """
        return self.config.context_length

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a document, those that the vocabulary does not have left out."""
        return tuple(each for each in self.config.eos_ids if each < self.config.vocab_size)

    @abstractmethod
    def embeddings(self) -> list[nn.Module]:
        """The modules that turn ids into vectors: frozen before any block, and never given LoRA."""

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """The head's weight, (V, C): logits are hidden states times this."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, C)."""
        return linear(hidden, self.head_weight)

    @abstractmethod
    def initialise(self, seed: int, std: float | None = None) -> Self:
        """Draw fresh weights; the same seed gives the same ones, and global random state is not touched.

        Args:
            seed: Of this model's own generator.
            std: Standard deviation of all matrices; None means the usual one.
        """

    @abstractmethod
    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty memory for so many rows of at most so many tokens."""

    @property
    @abstractmethod
    def cache_bytes_per_token(self) -> int:
        """Memory that one token of one row takes in a cache."""

    @abstractmethod
    def activations_per_token(self, block_size: int) -> int:
        """About how many numbers training keeps for each token, in blocks of so many, until the way back."""

    @abstractmethod
    def forward(
        self,
        ids: Tensor,
        *,
        cache: Any = None,
        pad: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, C).

        Args:
            ids: Token ids, int64, (B, T).
            cache: From `new_cache`, filled by earlier calls and extended by this one; None reads `ids` alone.
            pad: Left-padding tokens in each row, int64, (B,): the row's real tokens give what they would
                without them. None means no row is padded.
            segments: Record number of each token, int64, (B, T): a token sees its record only.

        Raises:
            ContextLengthError: More tokens than the model's context holds.
        """
