"""The engine that decodes in C: int8 weights, bfloat16 keys and values, one call per step.

Main entry: `NativeEngine`, an `Engine`. Invariants: every pointer and size handed to C was checked here
against the model's configuration, and what it points to is kept alive; what a row gets does not depend, in
any bit, on the rows beside it, on the size of pieces, or on the number of threads.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from conjure.errors import ModelError, ShapeError
from conjure.lm.generation.engines.base import PIECE, RowQueue, refuse_unreadable
from conjure.lm.generation.engines.int8_quantization import (
    BLOCK_BYTES,
    GROUP,
    PANEL,
    QuantisedLayer,
    QuantisedMatrix,
    QuantisedModel,
)
from conjure.lm.hardware import usable_cores
from conjure.lm.models.shape import LayerShape, ModelConfig, Shape
from conjure.lm.native import library as c

_CHUNK = 32  # as in forward.c
_DONE, _NO_TOKEN = 0, 2  # likewise
_CACHE_LINE = 64  # bytes
_MOST_THREADS = 64  # beyond these, meeting takes longer than it saves; forward.c has room for 256
_MOST_TOKENS = 512  # read in one call over all rows: bounds activations to some 20 MB at 124M parameters


def supports(config: ModelConfig) -> bool:
    """Whether the native engine computes this kind of model: GPT-2's kind, so far."""
    if not isinstance(config, Shape):
        return False
    plain_layers = all(layer == LayerShape(layer.score_scale) for layer in config.layers)
    one_head_each = config.n_kv_head == config.n_head and config.n_embd == config.n_head * config.head_size
    biased = config.qkv_bias and config.out_bias and config.mlp_bias
    usual = (config.norm, config.residual, config.activation) == ("layer", "sequential", "gelu_tanh")
    extras = config.gated or config.query_key_norm or config.embedding_scale != 1.0
    return plain_layers and one_head_each and biased and usual and config.learned_positions and not extras


class NativeEngine:
    """A model in int8, run by the compiled library.

    Args:
        weights: The rounded model.
        status: The library to use; it must be there.
        threads: How many threads compute; None means the usable cores.

    Raises:
        ModelError: The library does not compute this kind of model.
        ShapeError: The weights do not fit their configuration.
    """

    def __init__(self, weights: QuantisedModel, status: c.Status, *, threads: int | None = None) -> None:
        assert status.library is not None, "ask status() first"
        if not supports(weights.config):
            raise ModelError("the native engine supports only GPT-2 models")
        self.config = weights.config
        self._forward = status.library.conjure_forward
        self._instructions = c.INSTRUCTIONS.index(status.instructions)
        self._threads = min(threads if threads is not None else usable_cores(), _MOST_THREADS)
        self._weights = weights
        self._model = _model(weights)

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        return self.config.context_length

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers for one token."""
        config = self.config
        return 2 * config.n_layer * config.n_head * (config.head_size + _value_width(config))

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
        outcome = self._forward(self._model, call)
        assert outcome != _NO_TOKEN, "rows take tokens of the vocabulary only"
        if outcome != _DONE:
            raise MemoryError("no memory for activations")


class NativeRow:
    """A row and what it remembers: in each layer its heads' keys, then their values, as forward.c has them.

    Attributes:
        queue: What it has read, and has still to read.
        columns: How many tokens there is room for, in whole chunks.
        memory: bfloat16 numbers, as uint16.
    """

    def __init__(self, queue: RowQueue, config: Shape) -> None:
        self.queue, self._config = queue, config
        self.columns = -(-queue.capacity // _CHUNK) * _CHUNK
        per_layer = config.n_head * self.columns * (config.head_size + _value_width(config))
        self.memory = _aligned(config.n_layer * per_layer)  # read only where it was written

    def copy(self) -> "NativeRow":
        """Another row that has read the same; only what was written is copied."""
        copied = NativeRow(self.queue.copy(), self._config)
        for old, new in zip(self._written(), copied._written(), strict=True):
            new[...] = old
        return copied

    def _written(self) -> Iterator[np.ndarray]:
        """Keys and values, each (layers, heads, chunks, numbers)."""
        config = self._config
        layers = self.memory.reshape(config.n_layer, -1)
        for part in np.split(layers, [config.n_head * self.columns * config.head_size], axis=1):
            chunks = part.reshape(config.n_layer, config.n_head, self.columns // _CHUNK, -1)
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
        return self._number(NativeRow(queue, config) for queue in queues)

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


def _aligned(numbers: int) -> np.ndarray:
    """Room for so many bfloat16 numbers, as uint16, from the start of a cache line on."""
    block = np.empty(numbers + _CACHE_LINE // 2, np.uint16)
    start = -block.ctypes.data % _CACHE_LINE // 2
    return block[start : start + numbers]


def _value_width(config: Shape) -> int:
    """Head size, rounded up to whole chunks."""
    return -(-config.head_size // _CHUNK) * _CHUNK


def _address(tensor: Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Where a tensor's numbers lie, once it is sure that they are all there.

    Raises:
        ShapeError: It is not exactly what is claimed.
    """
    if (
        tensor.dtype != dtype
        or tensor.shape != shape
        or not tensor.is_contiguous()
        or tensor.device.type != "cpu"
    ):
        raise ShapeError(
            f"a weight is {tensor.dtype} of shape {tuple(tensor.shape)}; {dtype} of shape {shape} is needed"
        )
    return tensor.data_ptr()


def _model(weights: QuantisedModel) -> c.Model:
    config = weights.config
    C, V = config.n_embd, config.vocab_size
    if len(weights.layers) != config.n_layer:
        raise ShapeError(f"the model has {len(weights.layers)} layers; {config.n_layer} are needed")
    return c.Model(
        channels=C,
        inner=config.inner,
        heads=config.n_head,
        layers=config.n_layer,
        vocab=V,
        epsilon=config.norm_epsilon,
        wte=_address(weights.wte, torch.bfloat16, V, C),
        wpe=_address(weights.wpe, torch.float32, config.context_length, C),
        layer=(c.Layer * config.n_layer)(*(_layer(layer, config) for layer in weights.layers)),
        ln_f=_norm(weights.ln_f, C),
        head=_matrix(weights.head, C, V),
        head_mean=_address(weights.head_mean, torch.float32, C),
    )


def _layer(layer: QuantisedLayer, config: Shape) -> c.Layer:
    C = config.n_embd
    return c.Layer(
        ln_1=_norm(layer.ln_1, C),
        ln_2=_norm(layer.ln_2, C),
        qkv=_matrix(layer.qkv, C, 3 * C),
        proj=_matrix(layer.proj, C, C),
        fc=_matrix(layer.fc, C, config.inner),
        fc_proj=_matrix(layer.fc_proj, config.inner, C),
    )


def _norm(norm: tuple[Tensor, Tensor], channels: int) -> c.Norm:
    return c.Norm(*(_address(tensor, torch.float32, channels) for tensor in norm))


def _matrix(matrix: QuantisedMatrix, inputs: int, outputs: int) -> c.Matrix:
    panels, groups = -(-outputs // PANEL), -(-inputs // GROUP)
    return c.Matrix(
        weights=_address(matrix.packed, torch.uint8, panels, groups, BLOCK_BYTES),
        bias=_address(matrix.bias, torch.float32, panels * PANEL),
        inputs=inputs,
        outputs=outputs,
    )
