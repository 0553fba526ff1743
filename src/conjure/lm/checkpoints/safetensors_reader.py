"""Reading a safetensors file tensor by tensor, into memory of one's own.

Main entry: `TensorFile`. The safetensors library writes our files; it reads them by handing out pages of the
file itself, so that a file overwritten later changes or crashes a model already loaded, and a transposed or
widened copy doubles the memory. Here each tensor is copied once, in the layout and dtype wanted, and its
pages are given back. Invariant: a `TensorFile` that opened describes only bytes that are there.

Format: 8 bytes of little-endian header length; a JSON header with dtype, shape and byte range of each tensor;
the bytes. Source: the format section of the safetensors README.
"""

import json
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from conjure.core.files import open_regular
from conjure.core.text import error_text
from conjure.errors import CheckpointError

if TYPE_CHECKING:  # looking at a file does not pay for torch or numpy, reading it does
    import numpy as np
    import torch
    from torch import Tensor

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_PIECE_BYTES = 1 << 25  # 32 MiB: how much of the file is in memory beside the copy

# The format's name of a dtype -> torch's, and bytes per number.
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in an open file.

    Attributes:
        name: As the file spells it.
        dtype: torch's name of the stored number format, such as ``bfloat16``.
        shape: Of the stored tensor.
        start: First byte, counted from the start of the file.
        stop: The byte after its last.
        content: The file's bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    content: mmap.mmap

    @property
    def is_floating_point(self) -> bool:
        """Whether its numbers can be weights."""
        return "float" in self.dtype

    def read(self, dtype: "torch.dtype", *, transpose: bool = False) -> "Tensor":
        """A copy, contiguous; not for a scalar or an empty tensor.

        Args:
            dtype: Of the copy.
            transpose: Swap the two dimensions of a matrix.

        Raises:
            CheckpointError: A number is NaN or infinite.
        """
        import torch

        stored = getattr(torch, self.dtype)
        copy = torch.empty(self.shape[::-1] if transpose else self.shape, dtype=dtype)
        target = copy.t() if transpose else copy
        row_bytes = (self.stop - self.start) // len(target)
        step = max(1, _PIECE_BYTES // row_bytes)
        for row in range(0, len(target), step):
            rows = target[row : row + step]
            start = self.start + row * row_bytes
            piece = torch.frombuffer(self.content, dtype=stored, count=rows.numel(), offset=start)
            rows.copy_(piece.view(rows.shape))
            self._refuse_non_finite(rows)
            self._forget(start, start + len(rows) * row_bytes)
        return copy

    def view(self) -> "np.ndarray":
        """The numbers where they lie in the file, to be read only; bfloat16 ones are uint16, their bits."""
        import numpy as np

        stored = np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)
        count = math.prod(self.shape)
        return np.frombuffer(self.content, stored, count, self.start).reshape(self.shape)

    def _refuse_non_finite(self, rows: "Tensor") -> None:
        """Refuse NaN and infinity, whether stored or made by a narrower number format."""
        import torch

        # One sum finds them, and costs less than looking at each; a sum may overflow by itself, so look then.
        if not math.isfinite(rows.sum().item()) and not bool(torch.isfinite(rows).all()):
            kind = str(rows.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"the weights are damaged, or too large for {kind}: tensor {self.name} contains NaN or"
                " infinity"
            )

    def forget(self) -> None:
        """Give back the memory that its numbers take; reading them again fetches them again."""
        self._forget(self.start, self.stop)

    def same_as(self, other: "StoredTensor") -> bool:
        """Whether two tensors are equal in dtype, shape and every byte."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        return all(one == another for one, another in zip(self._pieces(), other._pieces(), strict=True))

    def _pieces(self) -> Iterator[bytes]:
        for start in range(self.start, self.stop, _PIECE_BYTES):
            yield self.content[start : min(start + _PIECE_BYTES, self.stop)]

    def _forget(self, start: int, stop: int) -> None:
        """Give back the whole pages of a range; reading them again would fetch them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self.content.madvise(mmap.MADV_DONTNEED, first, length)


class TensorFile:
    """An open safetensors file.

    Attributes:
        path: Its path.
        tensors: What it holds, by name; usable until the file is closed.
        metadata: What its writer noted beside them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                header, base, size = _read_header(path, file)
                self.metadata = _metadata(header.pop("__metadata__", None))
                self._content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
        try:
            self.tensors = {name: self._stored_tensor(name, entry, base) for name, entry in header.items()}
            self._check_layout(base, size)
        except CheckpointError:
            self._content.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(BufferError):  # an error on its way out may still hold numbers; then it closes later
            self._content.close()

    def _stored_tensor(self, name: str, entry: Any, base: int) -> StoredTensor:
        wrong = CheckpointError(f"{self.path} is damaged: its header describes tensor {name} wrongly")
        try:
            shape, (start, stop), code = tuple(entry["shape"]), entry["data_offsets"], str(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            raise wrong from None
        if not all(_is_size(value) for value in (*shape, start, stop)):
            raise wrong
        if code not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise CheckpointError(f"tensor {name} in {self.path} is of type {code!r}; conjure reads {known}")
        dtype, itemsize = _DTYPES[code]
        if math.prod(shape) * itemsize != stop - start:
            raise CheckpointError(
                f"{self.path} is damaged: tensor {name} of shape {shape} cannot be {stop - start:,} bytes"
            )
        return StoredTensor(name, dtype, shape, base + start, base + stop, self._content)

    def _check_layout(self, base: int, size: int) -> None:
        """The tensors fill the file from the header to its end, without gaps or overlaps."""
        position = base
        for tensor in sorted(self.tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
            if tensor.start != position:
                raise CheckpointError(
                    f"{self.path} is damaged: tensor {tensor.name} is not at the expected position"
                )
            if tensor.stop > size:
                raise CheckpointError(
                    f"{self.path} is truncated: tensor {tensor.name} needs the file to be {tensor.stop:,}"
                    f" bytes long, and it is {size:,}",
                    hint="copy or download the model again",
                )
            position = tensor.stop
        if position != size:
            raise CheckpointError(
                f"{self.path} is damaged: {size - position:,} bytes at its end belong to no tensor"
            )


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """The header's entries, where the bytes they speak of begin, and the file's size."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise CheckpointError(f"{path} is damaged: {size} bytes is too short for a safetensors file")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file: it claims a header of {length:,} bytes"
        )
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header is not a JSON object")
    return header, 8 + length, size


def _metadata(noted: object) -> dict[str, str]:
    """The format allows texts only; nothing needs them, so that anything else is left out."""
    pairs = noted.items() if isinstance(noted, dict) else ()
    return {name: text for name, text in pairs if isinstance(text, str)}


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
