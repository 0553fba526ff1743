"""int8 weights that were made once, kept in conjure's home and mapped into memory.

Main entry: `cached_weights`. A file is named by the digest of the checkpoint's files, and those digests are
found again by size, time and inode, so that a model which was used before is not read at all. Invariants: a
file is whole or not there under its name, and holds the weights of the files with that digest, whatever takes
their place meanwhile; one that was damaged since is made anew; `conjure prune` may remove any of them at any
time.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from conjure.core.files import sha256_bytes, sync_folder, write_atomically
from conjure.core.home import Home
from conjure.errors import CheckpointError, ConjureError
from conjure.lm.checkpoints.checkpoint_folder import CONFIG_FILE
from conjure.lm.checkpoints.checkpoint_weights import Weights, open_weights
from conjure.lm.checkpoints.safetensors_reader import TensorFile
from conjure.lm.checkpoints.safetensors_writer import encode_header
from conjure.lm.generation.engines.native_weights import NativeWeights, byte_sums, layout
from conjure.lm.models.shape import Shape

_FORMAT = 1  # of the files; a change here makes every older file unused
_ALIGNMENT = 64  # of the numbers in a file: a cache line
_PIECE_BYTES = 1 << 22
_SUMS = "sums"  # the tensor that tells whether the others are what they were
_CODES = {np.dtype(np.uint8): "U8", np.dtype(np.uint16): "BF16", np.dtype(np.float32): "F32"}


def cached_weights(folder: Path, on_making: Callable[[], None]) -> NativeWeights:
    """A decoder's int8 weights, from the cache, which gets them first if it does not have them.

    Args:
        folder: The checkpoint's.
        on_making: Called before they are made.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ModelError: A weight is NaN or infinite.
    """
    cache, signature = Home.from_environment().native_weights, _signature(folder)
    with open_weights(folder) as stored:
        known = _known_digest(cache, signature)
        if known is not None and signature == _signature(folder):
            found = _read(cache / f"{known}.safetensors", stored.config)
            if found is not None:
                return found
        on_making()
        weights = NativeWeights.make(stored.config, "int8", _reading(stored))
    # Where the disk is full or the home cannot be written, the next start makes them again.
    with suppress(OSError, ConjureError):
        _keep(cache, folder, signature, weights)
    return weights


def _reading(stored: Weights) -> Callable[[str], list[np.ndarray]]:
    """What reads the parts of a tensor, and gives back the memory of the one before."""
    last: list[str] = []

    def parts(name: str) -> list[np.ndarray]:
        if last:
            stored.forget(last.pop())
        last.append(name)
        return stored.parts(name)

    return parts


def _known_digest(cache: Path, signature: str | None) -> str | None:
    """The digest of a checkpoint whose files were seen before, unchanged."""
    try:
        return (cache / f"{signature}.digest").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _files(folder: Path) -> list[Path]:
    return [folder / CONFIG_FILE, *sorted(folder.glob("*.safetensors*"))]


def _signature(folder: Path) -> str | None:
    """Tells whether files are those seen before, without reading them; None if they cannot be looked at."""
    facts = [_FORMAT]
    try:
        for path in _files(folder):
            about = path.stat()
            facts += [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    except OSError:
        return None
    return sha256_bytes(json.dumps(facts).encode())


def _digest(folder: Path) -> str:
    digest = hashlib.blake2b(f"{_FORMAT}".encode(), digest_size=32)
    for path in _files(folder):
        digest.update(f"{path.name}/{path.stat().st_size}/".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _keep(cache: Path, folder: Path, signature: str | None, weights: NativeWeights) -> None:
    """Keep weights, unless other files have come since the `signature` was taken, before they were opened."""
    Home.from_environment().create()
    cache.mkdir(exist_ok=True)
    digest = _digest(folder)
    if signature is None or signature != _signature(folder):
        return
    unfinished = cache / f"{digest}.{os.getpid()}.unfinished"
    try:
        _write(unfinished, weights.arrays)
        unfinished.rename(cache / f"{digest}.safetensors")
    finally:
        unfinished.unlink(missing_ok=True)
    write_atomically(cache / f"{signature}.digest", digest)
    sync_folder(cache)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Whole cache lines first, so that all of those begin on one.
    ordered = sorted(arrays.items(), key=lambda item: (item[1].nbytes % _ALIGNMENT != 0, item[0]))
    sums = np.zeros(hashlib.sha256().digest_size, np.uint8)
    entries = [
        (name, _CODES[array.dtype], array.shape, array.nbytes) for name, array in [*ordered, (_SUMS, sums)]
    ]
    with path.open("wb+") as file:
        file.write(encode_header(entries, alignment=_ALIGNMENT))
        for _, array in ordered:
            file.write(array.data)
        file.flush()
        with mmap.mmap(file.fileno(), file.tell(), access=mmap.ACCESS_READ) as content:
            file.write(_sums(content, len(content)))
        file.flush()
        os.fsync(file.fileno())


def _sums(content: mmap.mmap, size: int) -> bytes:
    """A digest of a file's first bytes, its header's included."""
    return hashlib.sha256(byte_sums(np.frombuffer(content, np.uint8, size)).tobytes()).digest()


def _read(path: Path, config: Shape) -> NativeWeights | None:
    """The weights in a file; None where it is not there or was damaged."""
    try:
        stored = TensorFile(path).tensors
        sums = stored.pop(_SUMS)
    except (CheckpointError, KeyError):
        return None
    if bytes(sums.content[sums.start : sums.stop]) != _sums(sums.content, sums.start):
        return None
    wanted, arrays = layout(config, "int8"), {name: tensor.view() for name, tensor in stored.items()}
    if set(arrays) != set(wanted) or not all(wanted[name].fits(array) for name, array in arrays.items()):
        return None
    return NativeWeights(config, "int8", arrays)
