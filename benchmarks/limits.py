"""The physical limits: how fast each measure could be if only memory or only arithmetic took time.

Main entries: `training_limit`, `decoding_limit`, `prefill_limit`, `scoring_limit`. Sources: operation counts
by hand, ceilings measured by workers/ceilings.py in the same run. Invariant: a limit counts what cannot be
avoided, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Shape of a workload: (rows, prompt tokens, new tokens).
Work = Mapping[str, int]


@dataclass(frozen=True)
class Limit:
    """A figure nothing can pass, and what sets it."""

    value: float
    reason: str


@dataclass(frozen=True)
class Shape:
    """The model, as operation counts need it."""

    layers: int
    channels: int
    vocab: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From the model's config.json."""
        return cls(config["n_layer"], config["n_embd"], config["vocab_size"])

    @property
    def block_weights(self) -> int:
        """Weights in all matrix products but the head's."""
        return 12 * self.layers * self.channels**2

    @property
    def weights(self) -> int:
        """Weights in all matrix products."""
        return self.block_weights + self.vocab * self.channels

    def attention(self, seen: float) -> float:
        """Operations of one token's attention to `seen` others, in all layers."""
        return 4 * self.layers * self.channels * seen


def training_limit(shape: Shape, ceilings: Mapping[str, float], block: int) -> Limit:
    """Tokens per second if forward and backward were nothing but bfloat16 matrix products."""
    forward = 2 * shape.weights + shape.attention(block / 2)
    fastest = max(ceilings["rate_bfloat16"], ceilings["rate_float32"])
    return Limit(fastest / (3 * forward), "multiplication rate, bfloat16, three times the forward pass")


def step_bytes(shape: Shape, work: Work) -> int:
    """What every decoding step reads: int8 weights once, each row's keys and values in bfloat16."""
    seen = work["prompt"] + work["new"] / 2
    return int(shape.weights + work["rows"] * 4 * shape.layers * shape.channels * seen)


def decoding_limit(shape: Shape, ceilings: Mapping[str, float], work: Work, bandwidth: float) -> Limit:
    """Tokens per second if a step did nothing but read `step_bytes`, or nothing but multiply.

    Args:
        shape: The model.
        ceilings: What the machine can do at most.
        work: Rows, prompt and new tokens.
        bandwidth: Bytes per second over so many bytes, which may lie in a cache from one step to the next.
    """
    by_memory = work["rows"] * bandwidth / step_bytes(shape, work)
    by_arithmetic = _fastest(ceilings) / (
        2 * shape.weights + shape.attention(work["prompt"] + work["new"] / 2)
    )
    if by_memory < by_arithmetic:
        return Limit(by_memory, "memory: int8 weights, and keys and values in bfloat16, read once a step")
    return Limit(by_arithmetic, "multiplication rate, int8")


def prefill_limit(shape: Shape, ceilings: Mapping[str, float], work: Work) -> Limit:
    """Prompt tokens per second if reading them were nothing but int8 matrix products; one head at the end."""
    length = work["prompt"]
    operations = 2 * shape.block_weights + shape.attention(length / 2)
    operations += 2 * shape.vocab * shape.channels / length
    return Limit(_fastest(ceilings) / operations, "multiplication rate, int8")


def scoring_limit(shape: Shape, ceilings: Mapping[str, float], record_tokens: float) -> Limit:
    """Tokens per second if scoring were nothing but float32 matrix products."""
    operations = 2 * shape.weights + shape.attention(record_tokens / 2)
    return Limit(ceilings["rate_float32"] / operations, "multiplication rate, float32")


def _fastest(ceilings: Mapping[str, float]) -> float:
    return max(ceilings["rate_int8"], ceilings["rate_bfloat16"])
