"""What computes logits while text is generated: the interface between the decode loop and the engines.

Main entry: `Engine`. Invariant: an engine's logits are those of a plain forward pass over each row's own
tokens; rows never see each other or the padding.
"""

from typing import Protocol

from torch import Tensor


class Engine(Protocol):
    """Computes next-token logits for a batch of rows, remembering what the rows have read."""

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes while it is remembered."""
        ...

    @property
    def length(self) -> int:
        """Columns read so far, those of padding included."""
        ...

    def prefill(self, ids: Tensor, pad: Tensor, capacity: int) -> Tensor:
        """Forget everything and read new rows.

        Args:
            ids: int64, (R, T), each row's tokens at its right end.
            pad: How many columns on the left of each row are padding, int64, (R,).
            capacity: Columns to make room for, T and later steps together.

        Returns:
            Logits of the token after each row's last, float32, (R, V); the next call may overwrite them.
        """
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Read one more token per row, int64, (R,); logits of the next as from `prefill`."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 indices, (R',): repeats copy a row, left out ones are forgotten."""
        ...

    def summarise(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Say of logits, float32, (R, V), what every choice of a token needs.

        Returns:
            The logarithm of each row's sum of e^logit, float32, (R, 1), which is finite where all logits are
            numbers; and the id of its largest logit, the first of equal ones, int64, (R,).
        """
        ...
