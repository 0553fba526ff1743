"""What computes logits while text is generated: the interface between the decode loop and the engines.

Main entries: `Engine`, which holds a model's weights, and `Session`, which holds rows of tokens and reads
them. Invariant: a row's logits are those of a plain forward pass over its own tokens, whatever other rows its
session holds and whenever they come and go. Nothing here needs torch.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from conjure.errors import ContextLengthError, ModelError, ShapeError

PIECE = 128  # tokens of a row read in one step, unless a caller says otherwise


class Session(Protocol):
    """Rows of tokens, of different lengths, that are read together.

    Rows join and leave between steps. A server goes round this loop:

    1. ``session.add([ids], [capacity])`` takes a prompt in and gives the row's number; it computes nothing.
    2. ``session.drop(numbers)`` before the next step, for rows that have ended or whose client has gone.
    3. ``ready, logits = session.step(numbers)`` reads one piece of each of these rows: the next `PIECE`
       tokens of a prompt, or the one token that was appended. Rows that are not named wait. A server that
       wants no stream to pause for long names all rows that are being written and one whose prompt is being
       read.
    4. For each row in `ready`, which has read all it was given, a token is chosen from its logits, and
       ``session.append(number, token)`` gives it that token to read in a later step.

    The native engine gives a row the same bits in any company and for any size of pieces, which end at
    multiples of that size, counted from the row's first token; the torch engine, in float32, the same
    log-probabilities within 1e-5. A session belongs to one thread at a time.
    """

    def add(self, rows: Sequence[Sequence[int]], capacities: Sequence[int]) -> list[int]:
        """Take in new rows, to be read by later steps.

        Args:
            rows: The tokens each begins with, at least one.
            capacities: How many tokens to make room for in each row, those it begins with included.

        Returns:
            The rows' numbers; none is used twice in a session.

        Raises:
            ContextLengthError: A capacity is smaller than the row, or larger than the context.
            ModelError: A token id is not in the vocabulary.
        """
        ...

    def fork(self, row: int, copies: int) -> list[int]:
        """New rows that have read what this one has, and have the same room; their numbers.

        Raises:
            ShapeError: The row has something left to read.
        """
        ...

    def append(self, row: int, token: int) -> None:
        """Give a row that has read everything one more token to read.

        Raises:
            ShapeError: It has something left to read, or no room.
            ModelError: The token id is not in the vocabulary.
        """
        ...

    def room(self, row: int) -> int:
        """How many more tokens the row can be given."""
        ...

    def step(self, rows: Sequence[int], piece: int = PIECE) -> tuple[list[int], np.ndarray]:
        """Read the next piece of these rows, all together.

        Args:
            rows: Their numbers, each once; each has something left to read.
            piece: The size of pieces, in tokens; an engine may take smaller ones.

        Returns:
            The rows that have now read all they were given, in the order of `rows`; and the logits of what
            follows each, float32, (R, V), which the next step may overwrite.

        Raises:
            ShapeError: A row has nothing to read.
        """
        ...

    def drop(self, rows: Sequence[int]) -> None:
        """Forget rows; what they have read leaves the memory."""
        ...


class Engine(Protocol):
    """A model that is ready to compute; what its rows have read is kept by its sessions."""

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes while it is remembered."""
        ...

    def bytes_of(self, rows: Sequence[tuple[int, int]]) -> int:
        """Memory that rows of one session may come to take together.

        Args:
            rows: Tokens that each has by now, read or not, and its capacity.
        """
        ...

    def session(self) -> Session:
        """A session without rows; several can share the engine, one after the other."""
        ...


class RowQueue:
    """What a row has still to read, and how much it has read: what every engine counts alike.

    Attributes:
        length: Tokens read.
        capacity: Most tokens it can hold.
    """

    def __init__(self, ids: Sequence[int], capacity: int, context_length: int, vocab_size: int) -> None:
        if not 0 < len(ids) <= capacity <= context_length:
            raise ContextLengthError(
                f"{len(ids)} tokens in room for {capacity} do not fit a context of {context_length}"
            )
        self.length, self.capacity = 0, capacity
        self._vocab_size = vocab_size
        self._unread = [self._checked(token) for token in ids]

    def copy(self) -> "RowQueue":
        """Another row that has read the same; see `Session.fork`."""
        if self._unread:
            raise ShapeError(f"a row with {self.unread} tokens left to read cannot be copied")
        copied = copy.copy(self)
        copied._unread = []
        return copied

    @property
    def room(self) -> int:
        """How many more tokens it can be given."""
        return self.capacity - self.length - self.unread

    @property
    def unread(self) -> int:
        """Tokens left to read."""
        return len(self._unread)

    def append(self, token: int) -> None:
        """Take one more token; see `Session.append`."""
        if self._unread or not self.room:
            raise ShapeError(
                f"a row with {self.unread} tokens left to read and room for {self.room} takes no other one"
            )
        self._unread.append(self._checked(token))

    def take(self, count: int) -> list[int]:
        """Take so many tokens, or all that are left, to read now; they count as read."""
        taken, self._unread = self._unread[:count], self._unread[count:]
        self.length += len(taken)
        return taken

    def _checked(self, token: int) -> int:
        if not 0 <= token < self._vocab_size:
            raise ModelError(f"token ids must be from 0 to {self._vocab_size - 1}")
        return int(token)


def refuse_unreadable(rows: Sequence[int], queues: Mapping[int, RowQueue]) -> None:
    """Refuse a step over rows of which one comes twice, is not there, or has nothing to read."""
    if len(set(rows)) < len(rows):
        raise ShapeError(f"rows {list(rows)} are to be read; each can come once")
    for row in rows:
        if row not in queues:
            raise ShapeError(f"there is no row {row} in this session")
        if not queues[row].unread:
            raise ShapeError(f"row {row} has nothing to read; append a token first")
