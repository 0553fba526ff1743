"""A second architecture: a decaying memory of the tokens before, in place of attention and positions.

What it shares with the decoder is what `conjure.lm.models.base.CausalLM` promises, and nothing else: no keys
and values, no positions, no head of its own.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from conjure.errors import ContextLengthError
from conjure.lm.models import config_reader as setting
from conjure.lm.models.base import CausalLM
from conjure.lm.models.config_reader import Settings
from conjure.lm.models.family import Family, plain
from conjure.lm.models.shape import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DecayConfig(ModelConfig):
    """Its facts."""

    layers: int

    @property
    def n_layer(self) -> int:
        return self.layers

    @property
    def parameter_count(self) -> int:
        return self.vocab_size * self.n_embd + self.layers * self.n_embd**2


class DecayCache:
    """Each layer's memory of what the rows have read."""

    def __init__(self, memories: list[Tensor], capacity: int) -> None:
        self.memories, self.capacity, self.length = memories, capacity, 0

    def select(self, rows: Tensor) -> None:
        self.memories = [memory[rows] for memory in self.memories]


class DecayBlock(nn.Module):
    """A linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class DecayModel(CausalLM):
    """Each layer adds a linear function of the halving sum of everything before."""

    config: DecayConfig

    def __init__(self, config: DecayConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(DecayBlock(config.n_embd) for _ in range(config.layers))

    def embeddings(self) -> list[nn.Module]:
        return [self.embedding]

    @property
    def head_weight(self) -> Tensor:
        return self.embedding.weight

    def initialise(self, seed: int, std: float | None = None) -> Self:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0.0, std if std is not None else 0.2, generator=generator)
        return self

    def new_cache(self, rows: int, capacity: int) -> DecayCache:
        zeros = torch.zeros(rows, self.config.n_embd, dtype=self.dtype, device=self.device)
        return DecayCache([zeros] * self.n_layer, capacity)

    @property
    def cache_bytes_per_token(self) -> int:
        return 1  # it does not grow

    def activations_per_token(self, block_size: int) -> int:  # noqa: ARG002
        return 3 * self.n_layer * self.config.n_embd

    def forward(
        self, ids: Tensor, *, cache: Any = None, pad: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        past = cache.length if cache is not None else 0
        if past + ids.shape[1] > self.context_length:
            raise ContextLengthError(f"{past + ids.shape[1]} tokens do not fit {self.context_length}")
        memories = cache.memories if cache is not None else self.new_cache(len(ids), ids.shape[1]).memories
        real = torch.ones_like(ids, dtype=torch.bool)
        if pad is not None:
            real = torch.arange(past, past + ids.shape[1]) >= pad[:, None]
        x = self.dropout(self.embedding(ids), self.config.embedding_dropout)
        kept = []
        for layer, memory in zip(self.blocks, memories, strict=True):
            steps = []
            for index in range(ids.shape[1]):
                if segments is not None and index > 0:
                    memory = memory * (segments[:, index] == segments[:, index - 1])[:, None]
                memory = 0.5 * memory + x[:, index] * real[:, index, None]
                steps.append(memory)
            kept.append(memory)
            x = x + layer(torch.stack(steps, 1))
        if cache is not None:
            cache.memories, cache.length = kept, past + ids.shape[1]
        return x


_FACTS = {
    "vocab_size": setting.whole("vocab_size"),
    "context_length": setting.whole("context"),
    "n_embd": setting.whole("channels"),
    "eos_ids": setting.token_ids("eos_token_id"),
}


def _read(settings: Settings) -> DecayConfig:
    return DecayConfig(family="decay", layers=settings.layers("layers"), **settings.facts(_FACTS))


def _write(config: DecayConfig) -> dict[str, Any]:
    return {**setting.written(_FACTS, config), "layers": config.layers}


DECAY = Family(
    "decay",
    "DecayForCausalLM",
    _read,
    _write,
    {"embedding": plain("tokens"), "blocks.*.mix": plain("layer.*.mix")},
    prefix="decay.",
    model="support.decay_model:DecayModel",
)
