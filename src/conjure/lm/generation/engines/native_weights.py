"""A model's weights as the native engine reads them, made from a checkpoint's or a model's, without torch.

Main entries: `NativeWeights.make`, `layout`. Invariant: every array has the dtype and shape that `layout`
says, so what C is given can be checked against one table.

In int8, a weight matrix has one scale for each output and `GROUP` inputs, and the head of a model with layer
norm is rounded less its mean row (`int8_quantization` says why); token embeddings are bfloat16. Else matrices
and embeddings are float32, or bfloat16 where the checkpoint's are, which is as exact and half as much to
read. All other numbers are float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from conjure.errors import ShapeError
from conjure.lm.checkpoints.checkpoint_folder import EMBEDDING, HEAD
from conjure.lm.checkpoints.checkpoint_weights import NotFiniteError
from conjure.lm.hardware import usable_cores
from conjure.lm.models.shape import Shape
from conjure.lm.native import library as c

Format = Literal["int8", "float32", "bfloat16"]
FORMATS: tuple[Format, ...] = ("int8", "float32", "bfloat16")  # as in model.h

GROUP = 64  # inputs whose int8 weights share a scale; likewise
PANEL = 32  # outputs stored together; likewise
BLOCK_BYTES = 2 * PANEL + GROUP * PANEL  # one panel's scales and weights for one group

POSITIONS, HEAD_MEAN = "position_embedding.weight", "head_mean"

_STORED = {np.dtype(np.float32): 0, np.dtype(np.uint16): 1, np.dtype(np.float16): 2}  # as in pack.c
_DONE, _NO_MEMORY = 0, 1  # likewise
_SUMMED, _LANES = 1 << 20, 16  # likewise, and in lanes.h
_ROWS = 4096  # averaged at a time

Source = Callable[[str], Sequence[np.ndarray]]
"""Tells our tensor of a name, as arrays whose rows lie below one another: float32, float16, or uint16, which
are the bits of bfloat16."""


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """An array that the native engine reads.

    Attributes:
        dtype: numpy's; bfloat16 numbers are uint16.
        shape: Of the array.
    """

    dtype: type[np.generic]
    shape: tuple[int, ...]

    def fits(self, array: np.ndarray) -> bool:
        """Whether this is such an array, its numbers side by side."""
        return array.dtype == self.dtype and array.shape == self.shape and array.flags.c_contiguous


@dataclass(frozen=True, slots=True, eq=False)
class NativeWeights:
    """All of a decoder's weights.

    Attributes:
        config: Its shape.
        format: How matrices are stored.
        arrays: By the names in `layout`.
    """

    config: Shape
    format: Format
    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit the model.

        Raises:
            ShapeError: One is missing or other than it has to be.
        """
        for name, wanted in layout(self.config, self.format).items():
            array = self.arrays.get(name)
            if array is None:
                raise ShapeError(f"weight {name} is missing")
            if not wanted.fits(array):
                raise ShapeError(
                    f"weight {name} is {array.dtype} of shape {array.shape};"
                    f" {np.dtype(wanted.dtype)} of shape {wanted.shape} is needed"
                )

    @classmethod
    def make(cls, config: Shape, format: Format, source: Source) -> "NativeWeights":
        """Lay out weights that are read one tensor at a time.

        Raises:
            NotFiniteError: A weight is NaN or infinite.
        """
        return cls(config, format, dict(_Maker(config, format, source).arrays()))


def layout(config: Shape, format: Format) -> dict[str, ArrayLayout]:
    """Every array that such a model has, by the name of the weight it is made of.

    Every matrix has a bias, of zeros where the model has none.
    """
    arrays: dict[str, ArrayLayout] = {}
    for name, shape in _with_head(config, format).items():
        if len(shape) == 1:
            arrays.setdefault(name, ArrayLayout(np.float32, shape))
        elif name == EMBEDDING:
            arrays[name] = ArrayLayout(np.float32 if format == "float32" else np.uint16, shape)
        elif name == POSITIONS:
            arrays[name] = ArrayLayout(np.float32, shape)
        else:
            arrays[name] = _matrix(shape[0], shape[1], format)
            arrays[_bias_of(name)] = ArrayLayout(np.float32, (-(-shape[0] // PANEL) * PANEL,))
    arrays[_bias_of(HEAD)] = ArrayLayout(np.float32, (-(-config.vocab_size // PANEL) * PANEL,))
    if format == "int8" and config.norm == "layer":
        arrays[HEAD_MEAN] = ArrayLayout(np.float32, (config.n_embd,))
    return arrays


def _with_head(config: Shape, format: Format) -> dict[str, tuple[int, ...]]:
    """The model's weights; with int8, the head is one of its own even where it is the embedding."""
    shapes = config.parameter_shapes()
    if format == "int8":
        shapes[HEAD] = (config.vocab_size, config.n_embd)
    return shapes


def _matrix(outputs: int, inputs: int, format: Format) -> ArrayLayout:
    if format == "int8":
        return ArrayLayout(np.uint8, (-(-outputs // PANEL), -(-inputs // GROUP), BLOCK_BYTES))
    return ArrayLayout(np.float32 if format == "float32" else np.uint16, (outputs, inputs))


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


class _Maker:
    """Makes every array of `layout`."""

    def __init__(self, config: Shape, format: Format, source: Source) -> None:
        self._config, self._source = config, source
        self._layout, self._weights = layout(config, format), config.parameter_shapes()

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        head = EMBEDDING if self._config.tied else HEAD
        mean = _mean_row(self._source(head)) if HEAD_MEAN in self._layout else None
        for name, wanted in self._layout.items():
            if name == HEAD_MEAN:
                assert mean is not None
                yield name, mean
            elif len(wanted.shape) == 1:
                yield name, self._vector(name, wanted)
            else:
                yield name, self._packed(name, wanted, mean if name == HEAD else None)

    def _vector(self, name: str, wanted: ArrayLayout) -> np.ndarray:
        vector = np.zeros(wanted.shape, np.float32)
        if name not in self._weights:  # the bias of a matrix that has none
            return vector
        stored = np.concatenate([_as_float32(part) for part in self._source(name)])
        if not np.isfinite(stored).all():
            raise NotFiniteError(name)
        vector[: len(stored)] = stored
        if name.endswith("norm.weight") and self._config.norm == "rms":
            vector += np.float32(self._config.norm_offset)
        return vector

    def _packed(self, name: str, wanted: ArrayLayout, mean: np.ndarray | None) -> np.ndarray:
        packed = np.empty(wanted.shape, wanted.dtype)
        formats: dict[type[np.generic], Format] = {
            np.uint8: "int8",
            np.float32: "float32",
            np.uint16: "bfloat16",
        }
        source = EMBEDDING if name == HEAD and self._config.tied else name
        if not pack(self._source(source), packed, formats[wanted.dtype], mean):
            raise NotFiniteError(source)
        return packed


def pack(parts: Sequence[np.ndarray], to: np.ndarray, format: Format, mean: np.ndarray | None = None) -> bool:
    """Lay out one matrix, whose rows are those of the parts, by the compiled library.

    Args:
        parts: As a `Source` gives them.
        to: The array to fill.
        format: How.
        mean: A row to be taken off every one, float32.

    Returns:
        False if a number is NaN or infinite.
    """
    outputs, inputs = sum(len(part) for part in parts), parts[0].shape[1]
    assert all(part.ndim == 2 and part.shape[1] == inputs for part in parts)
    assert to.nbytes == _bytes(outputs, inputs, format)
    assert to.flags.c_contiguous
    library = c.status().library
    assert library is not None, "ask status() first"
    described = (c.Part * len(parts))(
        *(
            c.Part(
                numbers=part.ctypes.data,
                rows=len(part),
                row_stride=part.strides[0] // part.itemsize,
                column_stride=part.strides[1] // part.itemsize,
                stored=_STORED[part.dtype],
            )
            for part in parts
        )
    )
    outcome = library.conjure_pack(
        c.Packing(
            parts=described,
            count=len(parts),
            inputs=inputs,
            outputs=outputs,
            mean=None if mean is None else mean.ctypes.data,
            to=to.ctypes.data,
            format=FORMATS.index(format),
            threads=usable_cores(),
        )
    )
    if outcome == _NO_MEMORY:
        raise MemoryError("no memory to lay out weights")
    return outcome == _DONE


def byte_sums(numbers: np.ndarray) -> np.ndarray:
    """Sums of some bytes, uint8, at the speed of memory: a change of one word changes them."""
    assert numbers.flags.c_contiguous
    library = c.status().library
    assert library is not None, "ask status() first"
    sums = np.empty((-(-numbers.nbytes // _SUMMED), _LANES), np.uint32)
    library.conjure_sums(
        c.Summing(
            bytes=numbers.ctypes.data, size=numbers.nbytes, sums=sums.ctypes.data, threads=usable_cores()
        )
    )
    return sums


def _bytes(outputs: int, inputs: int, format: Format) -> int:
    if format == "int8":
        return -(-outputs // PANEL) * -(-inputs // GROUP) * BLOCK_BYTES
    return outputs * inputs * (4 if format == "float32" else 2)


def _mean_row(parts: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(parts[0].shape[1])
    for part in parts:
        for start in range(0, len(part), _ROWS):
            total += _as_float32(part[start : start + _ROWS]).sum(0, dtype=np.float64)
    return (total / sum(map(len, parts))).astype(np.float32)


def _as_float32(numbers: np.ndarray) -> np.ndarray:
    if numbers.dtype == np.uint16:  # bfloat16: the upper half of a float32
        return (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers.astype(np.float32)
