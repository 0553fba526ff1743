"""The engine that decodes in C: int8 weights, bfloat16 keys and values, one call per step.

Main entry: `NativeEngine`, an `Engine`. Invariant: every pointer and size handed to C was checked here
against the model's configuration, and what it points to is kept alive.
"""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from conjure.errors import ContextLengthError, ModelError, ShapeError
from conjure.lm.generation.engines.int8_quantization import (
    BLOCK_BYTES,
    GROUP,
    PANEL,
    QuantisedLayer,
    QuantisedMatrix,
    QuantisedModel,
)
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.hardware import usable_cores
from conjure.lm.models.decoder import KVCache
from conjure.lm.models.shape import LayerShape, ModelConfig, Shape
from conjure.lm.native import library as c

_CHUNK = 32  # as in forward.c
_DONE, _NO_TOKEN = 0, 2  # likewise
_MOST_THREADS = 64  # beyond these, meeting takes longer than it saves; forward.c has room for 256
_WORTH_A_READER = 64  # tokens of prompts from which handing over keys and values pays
_PREFILL_TOKENS = 512  # read at a time over all rows: bounds activations to some 20 MB at 124M parameters


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
        reader: The same model in bfloat16, to read prompts with where that is faster; its keys and values are
            taken over. None reads them in C like everything else.

    Raises:
        ModelError: The library does not compute this kind of model.
        ShapeError: The weights do not fit their configuration.
    """

    def __init__(
        self,
        weights: QuantisedModel,
        status: c.Status,
        *,
        threads: int | None = None,
        reader: TorchEngine | None = None,
    ) -> None:
        assert status.library is not None, "ask status() first"
        if not supports(weights.config):
            raise ModelError("the native engine supports only GPT-2 models")
        self._config = weights.config
        self._forward, self._summarise = status.library.conjure_forward, status.library.conjure_summarise
        self._instructions = c.INSTRUCTIONS.index(status.instructions)
        self._threads = min(threads if threads is not None else usable_cores(), _MOST_THREADS)
        self._weights, self._reader = weights, reader
        self._model = _model(weights)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._cache = c.Cache()
        self._logits = torch.empty((0, self._config.vocab_size))
        self._length = self._capacity = 0
        self._slots = self._pad = torch.empty(0, dtype=torch.int64)

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        return self._config.context_length

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers for one token."""
        config = self._config
        return 2 * config.n_layer * config.n_head * (config.head_size + _value_width(config))

    @property
    def length(self) -> int:
        """Columns read so far."""
        return self._length

    def prefill(self, ids: Tensor, pad: Tensor, capacity: int) -> Tensor:
        """Read new rows; see `Engine.prefill`."""
        rows, tokens = ids.shape
        if not 0 < tokens <= capacity <= self.context_length:
            raise ContextLengthError(
                f"{tokens} tokens in room for {capacity} do not fit a context of {self.context_length}"
            )
        if pad.shape != (rows,) or bool((pad < 0).any()) or bool((pad >= tokens).any()):
            raise ShapeError(f"padding {pad.tolist()} does not fit {rows} rows of {tokens} tokens")
        self._capacity = capacity
        self._length = 0
        self._slots, self._pad = torch.arange(rows), pad.to(torch.int64).contiguous()
        self._allocate(rows)
        if self._reader is not None and ids.numel() >= _WORTH_A_READER:
            return self._read_with(self._reader, ids)
        *parts, last = ids.split(max(1, _PREFILL_TOKENS // rows), dim=1)
        for part in parts:
            self._read(part, None)
        return self._read_to_logits(last)

    def step(self, ids: Tensor) -> Tensor:
        """Read one more token per row; see `Engine.step`."""
        return self._read_to_logits(ids[:, None])

    def select(self, rows: Tensor) -> None:
        """Go on with these rows; see `Engine.select`. Rows that leave cost nothing, repeated ones a copy."""
        rows = rows.to("cpu")
        self._slots, self._pad = self._slots[rows], self._pad[rows]
        if len(self._slots.unique()) < len(self._slots):
            self._copy_rows()
            self._cache = _cache(self._keys, self._values)

    def summarise(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What choosing needs; see `Engine.summarise`. Over many rows torch takes several times as long."""
        rows, vocab = logits.shape
        logits = logits.to(torch.float32).contiguous()
        logsumexp, argmax = torch.empty((rows, 1)), torch.empty(rows, dtype=torch.int64)
        summary = c.Summary(
            logits=logits.data_ptr(),
            rows=rows,
            vocab=vocab,
            logsumexp=logsumexp.data_ptr(),
            argmax=argmax.data_ptr(),
            threads=self._threads,
            instructions=self._instructions,
        )
        if self._summarise(summary) != _DONE:
            raise MemoryError("no memory to summarise logits")
        return logsumexp, argmax

    def _allocate(self, rows: int) -> None:
        """Room for every row's keys and values; they are read only where they were written."""
        config, columns = self._config, -(-self._capacity // _CHUNK) * _CHUNK
        heads = (rows, config.n_head)
        blocks = (*heads, columns // _CHUNK, config.head_size, _CHUNK)
        lines = (*heads, columns, _value_width(config))
        self._keys = [torch.empty(blocks, dtype=torch.bfloat16) for _ in range(config.n_layer)]
        self._values = [torch.empty(lines, dtype=torch.bfloat16) for _ in range(config.n_layer)]
        self._cache = _cache(self._keys, self._values)

    def _read_with(self, reader: TorchEngine, ids: Tensor) -> Tensor:
        logits = reader.prefill(ids, self._pad, ids.shape[1])
        cache = reader.hand_over()
        assert isinstance(cache, KVCache), "the reader is the same model, so a decoder"
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            blocks = _by_chunk(keys.transpose(2, 3)).unflatten(3, (-1, _CHUNK)).transpose(2, 3)
            self._keys[layer][:, :, : blocks.shape[2]] = blocks  # (R, H, blocks, D, _CHUNK)
            self._values[layer][:, :, : values.shape[2]] = _by_chunk(values)
        self._length = ids.shape[1]
        return logits

    def _copy_rows(self) -> None:
        """Give each row a slot of its own; only columns that were read are copied."""
        slots, self._slots = self._slots, torch.arange(len(self._slots))
        read = -(-self._length // _CHUNK)
        for tensors, used in ((self._keys, read), (self._values, read * _CHUNK)):
            for layer, old in enumerate(tensors):
                tensors[layer] = torch.empty((len(slots), *old.shape[1:]), dtype=old.dtype)
                tensors[layer][:, :, :used] = old[slots, :, :used]

    def _read_to_logits(self, ids: Tensor) -> Tensor:
        # One piece of memory for all steps: fresh pages for every step would cost as much as choosing tokens.
        if len(self._logits) < len(ids):
            self._logits = torch.empty((len(ids), self._config.vocab_size))
        logits = self._logits[: len(ids)]
        self._read(ids, logits)
        return logits

    def _read(self, ids: Tensor, logits: Tensor | None) -> None:
        rows, tokens = ids.shape
        if rows != len(self._slots) or self._length + tokens > self._capacity:
            raise ShapeError(
                f"ids of shape {tuple(ids.shape)} do not fit {len(self._slots)} rows with room for "
                f"{self._capacity - self._length} more tokens"
            )
        ids = ids.to(torch.int64).contiguous()
        call = c.Call(
            ids=ids.data_ptr(),
            slots=self._slots.data_ptr(),
            pad=self._pad.data_ptr(),
            rows=rows,
            tokens=tokens,
            start=self._length,
            logits=logits.data_ptr() if logits is not None else None,
            threads=self._threads,
            instructions=self._instructions,
        )
        outcome = self._forward(self._model, self._cache, call)
        if outcome == _NO_TOKEN:
            raise ModelError(f"token ids must be from 0 to {self._config.vocab_size - 1}")
        if outcome != _DONE:
            raise MemoryError("no memory for activations")
        self._length += tokens


def _by_chunk(numbers: Tensor) -> Tensor:
    """The last dimension filled up to whole chunks, and each chunk in the order of forward.c's `place_of`."""
    filled = functional.pad(numbers, (0, -numbers.shape[-1] % _CHUNK))
    return filled.unflatten(-1, (-1, 2, _CHUNK // 2)).transpose(-1, -2).flatten(-3)


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


def _cache(keys: list[Tensor], values: list[Tensor]) -> c.Cache:
    pointers = ctypes.c_void_p * len(keys)
    return c.Cache(
        pointers(*(tensor.data_ptr() for tensor in keys)),
        pointers(*(tensor.data_ptr() for tensor in values)),
        values[0].shape[2],
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
