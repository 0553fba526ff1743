"""Reading a GGUF file: its keys, and its tensors as plain numbers.

Main entry: `GGUFFile`. The `gguf` library knows how numbers are packed; the header is read here, because
every count and length in it must be held against the file's size before anything is allocated. Invariant: a
`GGUFFile` that opened describes only bytes that are there.

Format: ggml's docs/gguf.md. Magic, version, two counts; keys with typed values; tensor names with shape,
type and offset; padding; the tensors' bytes. Everything is little-endian.
"""

import math
import mmap
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from conjure.core.files import open_regular
from conjure.core.text import error_text
from conjure.errors import CheckpointError, UsageError
from conjure.installation import install_command
from conjure.lm.checkpoints.gguf.detection import MAGIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSIONS = (2, 3)
# Far beyond what any file holds; a count above them is damage.
_MAX_KEYS = 65_536
_MAX_TENSORS = 1 << 20
_MAX_STRING_BYTES = 1 << 24
_MAX_ITEMS = 1 << 23
_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20

_STRING, _ARRAY = 8, 9
_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}  # numbers as numpy has them
# The format's number of a value's type -> how struct spells it.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor in an open file.

    Attributes:
        name: As llama.cpp calls it, such as ``blk.0.attn_q.weight``.
        shape: Rows first, as numpy and torch have it (the file has it reversed).
        type: The format's name of the number format, such as ``Q4_1``.
        bits: Per number, scales included.
        start: First byte, counted from the start of the file.
        stop: The byte after its last.
        content: The file's bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    bits: float
    start: int
    stop: int
    content: mmap.mmap

    def read(self, rows: slice = slice(None)) -> "NDArray[np.float32]":
        """The numbers, in memory of their own.

        Args:
            rows: Which rows, of a matrix.

        Raises:
            CheckpointError: This number format cannot be unpacked.
        """
        import numpy as np

        packed = np.frombuffer(self.content, np.uint8, self.stop - self.start, self.start)
        if len(self.shape) > 1:
            packed = packed.reshape(self.shape[0], -1)[rows]
        shape = (len(packed), *self.shape[1:]) if len(self.shape) > 1 else self.shape
        if self.type in _PLAIN:
            return packed.view(_PLAIN[self.type]).astype(np.float32).reshape(shape)
        return np.array(self._unpack(packed), np.float32).reshape(shape)

    def _unpack(self, packed: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        import gguf
        import numpy as np

        try:
            # Scales of a damaged file may be NaN or overflow; whoever takes the numbers looks at them.
            with np.errstate(all="ignore"):
                return gguf.dequantize(packed, gguf.GGMLQuantizationType[self.type])
        except NotImplementedError as error:
            raise CheckpointError(
                f"tensor {self.name} is of type {self.type}, which cannot be unpacked"
            ) from error


class GGUFFile:
    """An open GGUF file.

    Attributes:
        path: Its path.
        keys: What it says of the model, by key; strings that are not UTF-8 keep U+FFFD in place.
        tensors: What it holds, by name; usable until the file is closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size < 24:
                    raise CheckpointError(f"{path} is damaged: {size} bytes is too short for a GGUF file")
                self._content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
        try:
            self._read_header(_Cursor(path, self._content))
        except CheckpointError:
            self._content.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(BufferError):  # a traceback may still hold numbers of it; the map goes with them
            self._content.close()

    def _read_header(self, cursor: "_Cursor") -> None:
        if cursor.take(4) != MAGIC:
            raise CheckpointError(f"{self.path} is not a GGUF file")
        version = cursor.scalar("I")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self.path} is of GGUF version {version}; conjure reads 2 and 3, little-endian"
            )
        tensor_count = cursor.count("tensors", _MAX_TENSORS, item_bytes=24)
        key_count = cursor.count("keys", _MAX_KEYS, item_bytes=12)
        self.keys: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.string()
            self.keys[key] = cursor.value(cursor.scalar("I"))
        entries = [_read_entry(cursor) for _ in range(tensor_count)]
        alignment = self.keys.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
            raise cursor.damaged(f"its alignment is {alignment!r}")
        base = -(-cursor.position // alignment) * alignment
        self.tensors: dict[str, PackedTensor] = {}
        for entry in entries:
            if entry.name in self.tensors:
                raise cursor.damaged(f"tensor {entry.name!r} is in it twice")
            self.tensors[entry.name] = self._packed_tensor(entry, base, len(self._content))

    def _packed_tensor(self, entry: "_Entry", base: int, size: int) -> PackedTensor:
        name, block, block_bytes = _number_format(self.path, entry)
        numbers = math.prod(entry.shape)
        if not numbers or entry.shape[-1] % block:
            raise CheckpointError(
                f"{self.path} is damaged: tensor {entry.name!r} of shape {entry.shape} is of type"
                f" {name}, which is impossible"
            )
        start = base + entry.offset
        stop = start + numbers // block * block_bytes
        if stop > size:
            raise CheckpointError(
                f"{self.path} is truncated: tensor {entry.name!r} needs the file to be {stop:,} bytes long,"
                f" and it is {size:,}",
                hint="copy or download the file again",
            )
        bits = 8 * block_bytes / block
        return PackedTensor(entry.name, entry.shape, name, bits, start, stop, self._content)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _read_entry(cursor: "_Cursor") -> _Entry:
    name = cursor.string()
    dimensions = cursor.scalar("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"tensor {name[:80]!r} has {dimensions:,} dimensions")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
    return _Entry(name[:200], shape, cursor.scalar("I"), cursor.scalar("Q"))


def _number_format(path: Path, entry: _Entry) -> tuple[str, int, int]:
    """A tensor type's name, and the numbers and bytes of one of its blocks."""
    gguf = gguf_library("reading GGUF")
    try:
        kind = gguf.GGMLQuantizationType(entry.type)
    except ValueError as error:
        raise CheckpointError(
            f"tensor {entry.name!r} in {path} is of type number {entry.type}, which is unknown"
        ) from error
    return kind.name, *gguf.GGML_QUANT_SIZES[kind]


def gguf_library(purpose: str) -> Any:
    """The `gguf` library.

    Raises:
        UsageError: It is not installed; `purpose`, such as ``reading GGUF``, is what needs it.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{purpose} needs the gguf library, which is not installed", fix=install_command("generate")
        ) from error
    return gguf


class _Cursor:
    """A place in the file that moves on as values are read."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path, self._content = path, content
        self.position = 0

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is damaged: {what}")

    @property
    def left(self) -> int:
        return len(self._content) - self.position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise CheckpointError(
                f"{self._path} is truncated or damaged: its header extends past the end of the file",
                hint="copy or download the file again",
            )
        start, self.position = self.position, self.position + size
        return self._content[start : self.position]

    def scalar(self, code: str) -> Any:
        layout = struct.Struct(f"<{code}")
        return layout.unpack(self.take(layout.size))[0]

    def count(self, of: str, limit: int, *, item_bytes: int) -> int:
        """A number of things to follow, each of at least `item_bytes`."""
        number = self.scalar("Q")
        if number > min(limit, self.left // item_bytes):
            raise self.damaged(f"it claims to contain {number:,} {of}")
        return number

    def string(self) -> str:
        size = self.count("bytes of text in one place", _MAX_STRING_BYTES, item_bytes=1)
        return self.take(size).decode("utf-8", errors="replace")

    def _strings(self, number: int) -> list[str]:
        """Many strings: a vocabulary has hundreds of thousands."""
        strings, content, position, end = [], self._content, self.position, len(self._content)
        for _ in range(number):
            start = position + 8
            position = start + int.from_bytes(content[position:start], "little")
            if start > end or position > end:
                self.take(self.left + 1)  # which says so
            strings.append(content[start:position].decode("utf-8", errors="replace"))
        self.position = position
        return strings

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise self.damaged(f"a value of it is of type number {kind:,}")
        kind = self.scalar("I")
        if kind == _STRING:
            return self._strings(self.count("values in a list", _MAX_ITEMS, item_bytes=8))
        if kind not in _SCALARS:
            raise self.damaged(f"a list in it has values of type number {kind:,}")
        layout = struct.Struct(f"<{_SCALARS[kind]}")
        number = self.count("values in a list", _MAX_ITEMS, item_bytes=layout.size)
        return [each for (each,) in layout.iter_unpack(self.take(number * layout.size))]
