"""The physical limits: how fast each measure could be if only memory or only arithmetic took time.

Main entry: `limits`. Sources: operation counts by hand, ceilings measured by workers/ceilings.py in the same
run. Invariant: a limit counts what cannot be avoided, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
    fastest = max(ceilings["matrix_bfloat16"], ceilings["matrix_float32"])
    return Limit(fastest / (3 * forward), "matrix rate, bfloat16, three times the forward pass")


def decoding_limit(shape: Shape, ceilings: Mapping[str, float], work: Work) -> Limit:
    """Tokens per second if every step read int8 weights and bfloat16 keys and values once, and multiplied."""
    rows, seen = work["rows"], work["prompt"] + work["new"] / 2
    memory = 4 * shape.layers * shape.channels * seen  # bytes of a row's keys and values
    by_memory = rows * ceilings["memory_bandwidth"] / (shape.weights + rows * memory)
    by_arithmetic = _fastest(ceilings) / (2 * shape.weights + shape.attention(seen))
    if by_memory < by_arithmetic:
        return Limit(by_memory, "memory: int8 weights, and keys and values in bfloat16, read once a step")
    return Limit(by_arithmetic, "matrix rate, int8")


def prefill_limit(shape: Shape, ceilings: Mapping[str, float], work: Work) -> Limit:
    """Prompt tokens per second if reading them were nothing but int8 matrix products; one head at the end."""
    length = work["prompt"]
    operations = 2 * shape.block_weights + shape.attention(length / 2)
    operations += 2 * shape.vocab * shape.channels / length
    return Limit(_fastest(ceilings) / operations, "matrix rate, int8")


def scoring_limit(shape: Shape, ceilings: Mapping[str, float], record_tokens: float) -> Limit:
    """Tokens per second if scoring were nothing but float32 matrix products."""
    operations = 2 * shape.weights + shape.attention(record_tokens / 2)
    return Limit(ceilings["matrix_float32"] / operations, "matrix rate, float32")


def _fastest(ceilings: Mapping[str, float]) -> float:
    return max(ceilings["matrix_int8"], ceilings["matrix_bfloat16"])
