"""Writing a safetensors file one tensor at a time, with no more than one of them in memory.

Main entries: `write_safetensors`, `encode_header`. Invariant: the header is written first and says what
follows, so a caller whose numbers do not fill it gets an error and not a file that reads wrongly.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_LENGTH_BYTES = 8  # of the header's length, before it
_HEADER_UNIT = 8


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to be written.

    Attributes:
        name: As the file shall spell it.
        dtype: ``F32``, ``F16`` or ``BF16``.
        shape: Of the tensor.
        pieces: Its numbers as float32, in order, when they are wanted.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: "Callable[[], Iterable[NDArray[np.float32]]]"

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def write_safetensors(path: Path, tensors: Sequence[TensorSource]) -> None:
    """Write tensors to a new file.

    Raises:
        OSError: The disk is full or the folder cannot be written.
        ValueError: A tensor's pieces are more or fewer numbers than its shape says.
    """
    entries = [(tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in tensors]
    with path.open("wb") as file:
        file.write(encode_header(entries))
        for tensor in tensors:
            written = sum(file.write(_packed(piece, tensor.dtype)) for piece in tensor.pieces())
            if written != tensor.size_bytes:
                raise ValueError(f"{tensor.name} came as {written} bytes, not as {tensor.size_bytes}")


def encode_header(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], *, alignment: int = _HEADER_UNIT
) -> bytes:
    """What a file begins with, its length included.

    Args:
        tensors: Name, dtype as the format has it, shape and size in bytes of each, in the order of the file.
        alignment: The first tensor begins at a multiple of so many bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape, size_bytes in tensors:
        stop = position + size_bytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % alignment)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _packed(numbers: "NDArray[np.float32]", dtype: str) -> bytes:
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32; numbers that were bfloat16 lose nothing
        return (np.ascontiguousarray(numbers).view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype("<f2" if dtype == "F16" else "<f4").tobytes()
