"""Writing a safetensors file one tensor at a time, with no more than one of them in memory.

Main entry: `write_safetensors`. Invariant: the header is written first and says what follows, so a caller
whose numbers do not fill it gets an error and not a file that reads wrongly.
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
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        stop = position + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_UNIT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            written = sum(file.write(_packed(piece, tensor.dtype)) for piece in tensor.pieces())
            if written != tensor.size_bytes:
                raise ValueError(f"{tensor.name} came as {written} bytes, not as {tensor.size_bytes}")


def _packed(numbers: "NDArray[np.float32]", dtype: str) -> bytes:
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32; numbers that were bfloat16 lose nothing
        return (np.ascontiguousarray(numbers).view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype("<f2" if dtype == "F16" else "<f4").tobytes()
