"""The engine that decodes in C: one call per step for all rows.

Main entry: `NativeEngine`, an `Engine`. Invariants: every pointer and size handed to C was checked here or by
`NativeWeights` against the model's shape, and what it points to is kept alive; what a row gets does not
depend, in any bit, on the rows beside it, on the size of pieces, or on the number of threads. Nothing here
needs torch.
"""

import itertools
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from conjure.errors import ModelError
from conjure.lm.checkpoints.checkpoint_folder import EMBEDDING
from conjure.lm.generation.engines.base import PIECE, RowQueue, refuse_unreadable
from conjure.lm.generation.engines.native_weights import FORMATS, HEAD_MEAN, POSITIONS, NativeWeights
from conjure.lm.hardware import usable_cores
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.lm.native import library as c
from conjure.lm.nn.rope_frequencies import rope_frequencies

# All of these are as in C, mostly in model.h.
_CHUNK = 32
_DONE, _NO_TOKEN = 0, 2
_NORMS = ("layer", "rms")
_ACTIVATIONS = ("gelu_tanh", "gelu", "relu", "silu")
_RESIDUALS = ("sequential", "parallel", "sandwich")

_MOST_THREADS = 64  # beyond these, meeting takes longer than it saves; forward.c has room for 256
_MOST_TOKENS = 512  # read in one call over all rows: bounds activations to some 20 MB at 124M parameters


def supports(config: ModelConfig) -> bool:
    """Whether the native engine computes this kind of model: every decoder with an activation it knows."""
    return isinstance(config, Shape) and config.activation in _ACTIVATIONS


class NativeEngine:
    """A model that the compiled library runs.

    Args:
        weights: The model.
        status: The library to use; it must be there.
        threads: How many threads compute; None means the usable cores.

    Raises:
        ModelError: The library does not compute this kind of model.
    """

    def __init__(self, weights: NativeWeights, status: c.Status, *, threads: int | None = None) -> None:
        assert status.library is not None, "ask status() first"
        if not supports(weights.config):
            raise ModelError(f"the native engine does not support activation {weights.config.activation!r}")
        self.config, self.format = weights.config, weights.format
        self._forward = status.library.conjure_forward
        self._instructions = c.INSTRUCTIONS.index(status.instructions)
        self._threads = min(threads if threads is not None else usable_cores(), _MOST_THREADS)
        self._described = _Described(weights)

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        return self.config.context_length

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers for one token."""
        numbers = (
            self.config.n_layer * self.config.n_kv_head * (self.config.head_size + _value_width(self.config))
        )
        return numbers * self.remembered.itemsize

    def bytes_of(self, rows: Sequence[tuple[int, int]]) -> int:
        """Memory that rows may come to take: each by itself; see `Engine.bytes_of`."""
        return self.bytes_per_token * sum(capacity for _, capacity in rows)

    @property
    def remembered(self) -> np.dtype:
        """The format of keys and values; uint16 are the bits of bfloat16."""
        return np.dtype(np.uint16 if self.format == "int8" else np.float32)

    def session(self) -> "NativeSession":
        """A session without rows."""
        return NativeSession(self)

    def forward(
        self,
        rows: "Sequence[NativeRow]",
        pieces: Sequence[Sequence[int]],
        wanted: Sequence[int],
        logits: np.ndarray,
    ) -> None:
        """Read a piece of each row.

        Args:
            rows: The pieces are already counted in their lengths.
            pieces: The new tokens of each.
            wanted: The new tokens after which logits are wanted, by their places in all pieces together.
            logits: Where to, float32, (len(wanted), V).
        """
        tokens = [len(piece) for piece in pieces]
        assert all(row.queue.length <= row.columns for row in rows)
        assert all(0 <= place < sum(tokens) for place in wanted)
        assert logits.shape == (len(wanted), self.config.vocab_size)
        assert logits.dtype == np.float32
        assert logits.flags.c_contiguous
        arrays = [
            np.array(numbers, dtype=np.int64)
            for numbers in (
                list(itertools.chain.from_iterable(pieces)),
                tokens,
                [row.queue.length - count for row, count in zip(rows, tokens, strict=True)],
                [row.memory.ctypes.data for row in rows],
                [row.columns for row in rows],
                wanted,
            )
        ]
        call = c.Call(
            *(array.ctypes.data for array in arrays),
            rows=len(rows),
            outputs=len(wanted),
            logits=logits.ctypes.data,
            threads=self._threads,
            instructions=self._instructions,
        )
        outcome = self._forward(self._described.model, call)
        assert outcome != _NO_TOKEN, "rows take tokens of the vocabulary only"
        if outcome != _DONE:
            raise MemoryError("no memory for activations")


class NativeRow:
    """A row and what it remembers: in each layer its heads' keys, then their values, as forward.c has them.

    Attributes:
        queue: What it has read, and has still to read.
        columns: How many tokens there is room for, in whole chunks.
        memory: Its numbers; they are read only where they were written.
    """

    def __init__(self, queue: RowQueue, config: Shape, remembered: np.dtype) -> None:
        self.queue, self._config = queue, config
        self.columns = -(-queue.capacity // _CHUNK) * _CHUNK
        per_layer = config.n_kv_head * self.columns * (config.head_size + _value_width(config))
        self.memory = _room(config.n_layer * per_layer, remembered)

    def copy(self) -> "NativeRow":
        """Another row that has read the same; only what was written is copied."""
        copied = NativeRow(self.queue.copy(), self._config, self.memory.dtype)
        for old, new in zip(self._written(), copied._written(), strict=True):
            new[...] = old
        return copied

    def _written(self) -> Iterator[np.ndarray]:
        """Keys and values, each (layers, heads, chunks, numbers)."""
        config = self._config
        layers = self.memory.reshape(config.n_layer, -1)
        for part in np.split(layers, [config.n_kv_head * self.columns * config.head_size], axis=1):
            chunks = part.reshape(config.n_layer, config.n_kv_head, self.columns // _CHUNK, -1)
            yield chunks[:, :, : -(-self.queue.length // _CHUNK)]


class NativeSession:
    """Rows that a `NativeEngine` reads; see `Session`."""

    def __init__(self, engine: NativeEngine) -> None:
        self._engine = engine
        self._rows: dict[int, NativeRow] = {}
        self._numbers = itertools.count()
        self._logits = np.empty((0, engine.config.vocab_size), np.float32)

    def add(self, rows: Sequence[Sequence[int]], capacities: Sequence[int]) -> list[int]:
        """Take in new rows; see `Session.add`."""
        config = self._engine.config
        queues = [
            RowQueue(ids, capacity, config.context_length, config.vocab_size)
            for ids, capacity in zip(rows, capacities, strict=True)
        ]
        return self._number(NativeRow(queue, config, self._engine.remembered) for queue in queues)

    def fork(self, row: int, copies: int) -> list[int]:
        """Rows that have read the same; see `Session.fork`."""
        return self._number(self._rows[row].copy() for _ in range(copies))

    def append(self, row: int, token: int) -> None:
        """Give a row one more token; see `Session.append`."""
        self._rows[row].queue.append(token)

    def room(self, row: int) -> int:
        """How many more tokens fit; see `Session.room`."""
        return self._rows[row].queue.room

    def step(self, rows: Sequence[int], piece: int = PIECE) -> tuple[list[int], np.ndarray]:
        """Read a piece of each row; see `Session.step`."""
        refuse_unreadable(rows, {number: row.queue for number, row in self._rows.items()})
        # One piece of memory for all steps: fresh pages for every step would cost as much as choosing tokens.
        if len(self._logits) < len(rows):
            self._logits = np.empty((len(rows), self._engine.config.vocab_size), np.float32)
        ready: list[int] = []
        piece = min(piece, _MOST_TOKENS)
        queues = [self._rows[number].queue for number in rows]
        pieces = [queue.take(piece - queue.length % piece) for queue in queues]
        for part in _parts(list(map(len, pieces))):
            ready += self._read(rows[part], pieces[part], len(ready))
        return ready, self._logits[: len(ready)]

    def drop(self, rows: Sequence[int]) -> None:
        """Forget rows; see `Session.drop`."""
        for number in rows:
            del self._rows[number]

    def _read(self, numbers: Sequence[int], pieces: list[list[int]], start: int) -> list[int]:
        """Read pieces in one call; logits go to the rows from `start` on. Returns the rows they are of."""
        ends = [end - 1 for end in itertools.accumulate(map(len, pieces))]
        rows = [self._rows[number] for number in numbers]
        ready = [index for index, row in enumerate(rows) if not row.queue.unread]
        logits = self._logits[start : start + len(ready)]
        self._engine.forward(rows, pieces, [ends[index] for index in ready], logits)
        return [numbers[index] for index in ready]

    def _number(self, rows: Iterable[NativeRow]) -> list[int]:
        numbered = {next(self._numbers): row for row in rows}
        self._rows.update(numbered)
        return list(numbered)


def _parts(tokens: list[int]) -> Iterator[slice]:
    """Rows with so many tokens each, in parts of at most `_MOST_TOKENS`."""
    start, total = 0, 0
    for index, count in enumerate(tokens):
        if index > start and total + count > _MOST_TOKENS:
            yield slice(start, index)
            start, total = index, 0
        total += count
    yield slice(start, len(tokens))


def _room(numbers: int, dtype: np.dtype) -> np.ndarray:
    """Room for so many numbers, from the start of a page on, which is taken from the system page by page.

    NumPy would ask for huge pages. The first tokens of a row write to all of them, so that the whole room for
    a long row would be cleared at once, while other rows wait.
    """
    try:
        pages = mmap.mmap(-1, max(1, numbers * dtype.itemsize))
    except OSError as error:
        raise MemoryError(f"{numbers * dtype.itemsize:,} bytes for a row") from error
    with suppress(AttributeError, OSError):  # not every system has huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype, numbers)


def _value_width(config: Shape) -> int:
    """Head size, rounded up to whole chunks."""
    return -(-config.head_size // _CHUNK) * _CHUNK


class _Described:
    """A model in C's terms; keeps alive what they point to."""

    def __init__(self, weights: NativeWeights) -> None:
        self._weights, self._config = weights, weights.config
        self._ropes = list(
            dict.fromkeys(layer.rope for layer in self._config.layers if layer.rope is not None)
        )
        self._frequencies: list[np.ndarray] = []
        self.model = self._model()

    def _model(self) -> c.Model:
        config, weights = self._config, self._weights
        layers, ropes = range(config.n_layer), [self._rope(number) for number in range(len(self._ropes))]
        return c.Model(
            channels=config.n_embd,
            inner=config.inner,
            heads=config.n_head,
            kv_heads=config.n_kv_head,
            head_size=config.head_size,
            layers=config.n_layer,
            ropes=len(ropes),
            vocab=config.vocab_size,
            epsilon=config.norm_epsilon,
            embedding_scale=config.embedding_scale,
            format=FORMATS.index(weights.format),
            norm=_NORMS.index(config.norm),
            activation=_ACTIVATIONS.index(config.activation),
            residual=_RESIDUALS.index(config.residual),
            gated=config.gated,
            embedding=self._address(EMBEDDING),
            positions=self._address(POSITIONS),
            layer=(c.Layer * config.n_layer)(*(self._layer(number) for number in layers)),
            rope=(c.Rope * len(ropes))(*ropes),
            final_norm=self._norm("final_norm"),
            head=self._matrix("lm_head", config.n_embd, config.vocab_size),
            head_mean=self._address(HEAD_MEAN),
        )

    def _layer(self, number: int) -> c.Layer:
        config, kind, name = self._config, self._config.layers[number], f"blocks.{number}"
        attended = config.qkv_rows[0]
        return c.Layer(
            attention_norm=self._norm(f"{name}.attention_norm"),
            attention_post_norm=self._norm(f"{name}.attention_post_norm"),
            mlp_norm=self._norm(f"{name}.mlp_norm"),
            mlp_post_norm=self._norm(f"{name}.mlp_post_norm"),
            query_norm=self._norm(f"{name}.attention.query_norm"),
            key_norm=self._norm(f"{name}.attention.key_norm"),
            qkv=self._matrix(f"{name}.attention.qkv", config.n_embd, sum(config.qkv_rows)),
            out=self._matrix(f"{name}.attention.out", attended, config.n_embd),
            up=self._matrix(f"{name}.mlp.up", config.n_embd, sum(config.up_rows)),
            down=self._matrix(f"{name}.mlp.down", config.inner, config.n_embd),
            window=kind.window or 0,
            rope=-1 if kind.rope is None else self._ropes.index(kind.rope),
            score_scale=kind.score_scale,
        )

    def _rope(self, number: int) -> c.Rope:
        rope = self._ropes[number]
        frequencies, factor = rope_frequencies(rope.channels, rope.base, rope.scaling, dict(rope.settings))
        self._frequencies.append(frequencies)
        return c.Rope(frequencies=frequencies.ctypes.data, pairs=len(frequencies), factor=factor)

    def _norm(self, name: str) -> c.Norm:
        return c.Norm(gain=self._address(f"{name}.weight"), bias=self._address(f"{name}.bias"))

    def _matrix(self, name: str, inputs: int, outputs: int) -> c.Matrix:
        weights = self._address(f"{name}.weight")
        if weights is None:  # a head that is the embedding
            weights = self._address(EMBEDDING)
        return c.Matrix(weights=weights, bias=self._address(f"{name}.bias"), inputs=inputs, outputs=outputs)

    def _address(self, name: str) -> int | None:
        array = self._weights.arrays.get(name)
        return None if array is None else array.ctypes.data
