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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from conjure.errors import CheckpointError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_PIECE_BYTES = 1 << 25  # 32 MiB: how much of the file is in memory beside the copy

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies in its file.

    Attributes:
        name: As the file spells it.
        dtype: Of the stored numbers.
        shape: Of the stored tensor.
        start: First byte, counted from the start of the file.
        stop: The byte after its last.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """An open safetensors file.

    Attributes:
        path: Its path.
        tensors: What it holds, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.tensors = _read_header(path, file)
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bytes.close()

    def read(self, name: str, dtype: torch.dtype, *, transpose: bool = False) -> Tensor:
        """A copy of one tensor, contiguous.

        Args:
            name: One of `tensors`, not a scalar and not empty.
            dtype: Of the copy.
            transpose: Swap the two dimensions of a matrix.
        """
        stored = self.tensors[name]
        copy = torch.empty(stored.shape[::-1] if transpose else stored.shape, dtype=dtype)
        target = copy.t() if transpose else copy
        row_bytes = (stored.stop - stored.start) // len(target)
        step = max(1, _PIECE_BYTES // row_bytes)
        for row in range(0, len(target), step):
            rows = target[row : row + step]
            start = stored.start + row * row_bytes
            rows.copy_(self._view(stored.dtype, start, rows.numel()).view(rows.shape))
            self._forget(start, start + len(rows) * row_bytes)
        return copy

    def bytes_of(self, tensor: StoredTensor) -> Iterator[bytes]:
        """A tensor's bytes in pieces."""
        for start in range(tensor.start, tensor.stop, _PIECE_BYTES):
            yield self._bytes[start : min(start + _PIECE_BYTES, tensor.stop)]

    def _view(self, dtype: torch.dtype, start: int, count: int) -> Tensor:
        return torch.frombuffer(self._bytes, dtype=dtype, count=count, offset=start)

    def _forget(self, start: int, stop: int) -> None:
        """Give back the whole pages of a range; reading them again would fetch them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._bytes.madvise(mmap.MADV_DONTNEED, first, length)


def same_bytes(file: TensorFile, tensor: StoredTensor, other_file: TensorFile, other: StoredTensor) -> bool:
    """Whether two stored tensors are equal in dtype, shape and every byte."""
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    pieces = zip(file.bytes_of(tensor), other_file.bytes_of(other), strict=True)
    return all(one == another for one, another in pieces)


def _read_header(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    """The header's tensors, every claim checked against the file's size."""
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
    header.pop("__metadata__", None)
    base = 8 + length
    tensors = {name: _stored_tensor(path, name, entry, base) for name, entry in header.items()}
    _check_layout(path, tensors, base, size)
    return tensors


def _stored_tensor(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
        dtype = str(entry["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its header describes tensor {name} wrongly") from error
    if not all(_is_size(value) for value in (*shape, start, stop)):
        raise CheckpointError(f"{path} is damaged: its header describes tensor {name} wrongly")
    if dtype not in _DTYPES:
        raise CheckpointError(
            f"tensor {name} in {path} is of type {dtype!r}; conjure reads {', '.join(_DTYPES)}"
        )
    if math.prod(shape) * _DTYPES[dtype].itemsize != stop - start:
        raise CheckpointError(
            f"{path} is damaged: tensor {name} of shape {shape} cannot be {stop - start:,} bytes"
        )
    return StoredTensor(name, _DTYPES[dtype], shape, base + start, base + stop)


def _check_layout(path: Path, tensors: dict[str, StoredTensor], base: int, size: int) -> None:
    """The tensors fill the file from the header to its end, without gaps or overlaps."""
    position = base
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start != position:
            raise CheckpointError(f"{path} is damaged: tensor {tensor.name} is not where it should be")
        if tensor.stop > size:
            raise CheckpointError(
                f"{path} is cut short: tensor {tensor.name} needs the file to be {tensor.stop:,} bytes"
                f" long, and it is {size:,}",
                fix="copy or download the model again",
            )
        position = tensor.stop
    if position != size:
        raise CheckpointError(f"{path} is damaged: {size - position:,} bytes at its end belong to no tensor")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
