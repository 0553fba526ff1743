"""A GGUF file made into a checkpoint folder, once.

Main entry: `checkpoint_folder`. The result lies in conjure's home under the digest of the file, so a file
that is moved is not converted again and one that is changed is. Invariant: a folder that is returned is
whole; one that a crash or a careless hand damaged is made anew.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjure.core.files import locked, replace_folder, sha256_file
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import CheckpointError, ModelError
from conjure.lm.checkpoints.checkpoint_folder import ORIGIN_FILE
from conjure.lm.checkpoints.gguf.families import (
    EMBEDDING,
    FAMILIES,
    HEAD,
    ROPE_FREQS,
    Family,
    Rule,
    stored_shape,
)
from conjure.lm.checkpoints.gguf.header import GGUFShape
from conjure.lm.checkpoints.gguf.reader import GGUFFile, PackedTensor
from conjure.lm.checkpoints.gguf.vocabulary import tokenizer_files
from conjure.lm.checkpoints.safetensors_writer import TensorSource, write_safetensors
from conjure.lm.checkpoints.weights_digest import remembered_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMAT = 3  # of what is written here; a change makes old folders be made anew
_PIECE_NUMBERS = 1 << 23
_PIECE_BYTES = 1 << 24
_DIGESTED_BELOW_BYTES = 1 << 26  # smaller files of a folder are known by digest, larger ones by size
_COMPARED_ROWS = 256
_SIXTEEN_BITS = ("F16", "BF16")
_NOTED_KEYS = {
    "name": "general.name",
    "license": "general.license",
    "license_name": "general.license.name",
}

Report = Callable[[str], None]


def checkpoint_folder(path: Path, report: Report | None = None) -> Path:
    """The checkpoint folder a GGUF file stands for; made at first use.

    Args:
        path: The file.
        report: Told in a line when it is being converted.

    Raises:
        CheckpointError: It is damaged, or of a kind that is not known; or the home's disk is full.
        StoreError: The home cannot be used.
    """
    root = Home.from_environment().create().models
    digest = remembered_digest(path)
    folder = root / digest
    if is_whole(folder):
        return folder
    with _storing(folder), locked(root / f".{digest}.lock"):
        if not is_whole(folder):
            if report is not None:
                report(f"Converting {path.name} (once)")
            with replace_folder(folder) as fresh:
                convert(path, fresh, digest)
                if remembered_digest(path) != digest:
                    raise CheckpointError(f"{path} was changed while it was read")
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a converted folder has every file that was written, of the size or digest it had."""
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_bytes())
        return origin["format"] == _FORMAT and origin["files"] == _fingerprints(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def convert(path: Path, folder: Path, digest: str) -> None:
    """Write a GGUF file's model into an empty folder.

    Args:
        path: The file.
        folder: Where to.
        digest: Of the file, to be noted.

    Raises:
        CheckpointError: As for `checkpoint_folder`.
    """
    with GGUFFile(path) as file:
        try:
            _write(file, folder)
        except ModelError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error
        origin = _origin(file, digest)
    _write_json(folder / ORIGIN_FILE, {**origin, "files": _fingerprints(folder)})


def _write(file: GGUFFile, folder: Path) -> None:
    architecture = str(file.keys.get("general.architecture"))
    if architecture not in FAMILIES:
        raise ModelError(f"its architecture is {architecture[:40]!r}; supported: {', '.join(FAMILIES)}")
    if file.keys.get("split.count", 1) not in (0, 1):
        raise ModelError("it is one part of several; join them with `llama-gguf-split --merge`")
    family = FAMILIES[architecture]
    embedding, head = file.tensors.get(EMBEDDING), file.tensors.get(HEAD)
    if embedding is None:
        raise ModelError(f"it has no tensor {EMBEDDING}")
    tied = head is None or _same_matrix(embedding, head)
    shape = GGUFShape.from_keys(
        file.keys,
        vocabulary=embedding.shape[0],
        tied=tied,
        rope_divisors=_rope_divisors(file),
    )
    sources = _sources(file, family, shape)
    files = tokenizer_files(file.keys, vocabulary=shape.vocabulary, context=shape.context)
    write_safetensors(folder / "model.safetensors", sources)
    config = {
        "model_type": family.model_type,
        **family.config(shape),
        **{key: _has(file, tensor) for key, tensor in family.biases.items()},
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": tied,
        "dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[sources[0].dtype],
        **files.generation,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", files.generation)
    # Without indentation: a vocabulary is long, and Python's fast encoder makes none.
    (folder / "tokenizer.json").write_text(json.dumps(files.tokenizer, ensure_ascii=False), encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", files.config)


def _has(file: GGUFFile, tensor: str) -> bool:
    """Whether any layer has this tensor."""
    return any(name.endswith(f".{tensor}") for name in file.tensors)


def _rope_divisors(file: GGUFFile) -> Sequence[float] | None:
    tensor = file.tensors.get(ROPE_FREQS)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > 4096:
        raise ModelError(f"tensor {ROPE_FREQS} has shape {tensor.shape}, which is not a list of divisors")
    return [float(each) for each in tensor.read()]


def _same_matrix(one: PackedTensor, other: PackedTensor) -> bool:
    """Whether two tensors are one matrix: a tied one that the file holds twice, maybe rounded in two ways."""
    import numpy as np

    if one.shape != other.shape or len(one.shape) != 2:
        return False
    if one.type == other.type:
        return _same_bytes(one, other)  # a head that was tuned on its own may be as near as a rounding
    rows = slice(None, None, max(1, one.shape[0] // _COMPARED_ROWS))
    left, right = one.read(rows).astype(np.float64), other.read(rows).astype(np.float64)
    difference, size = np.linalg.norm(left - right), np.linalg.norm(left)
    return bool(difference <= max(_rounding(one), _rounding(other)) * size)


def _same_bytes(one: PackedTensor, other: PackedTensor) -> bool:
    """Whether two tensors of one shape and number format are the same, to the last bit."""

    def piece(tensor: PackedTensor, place: int) -> bytes:
        start = tensor.start + place
        return tensor.content[start : min(start + _PIECE_BYTES, tensor.stop)]

    places = range(0, one.stop - one.start, _PIECE_BYTES)
    return all(piece(one, place) == piece(other, place) for place in places)


def _rounding(tensor: PackedTensor) -> float:
    """By how much, of its size, a matrix may be off for having been stored so; about twice what is usual."""
    exact = {"F64": 1e-6, "F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}
    return exact[tensor.type] if tensor.type in exact else 4 * 2.0**-tensor.bits


def _sources(file: GGUFFile, family: Family, shape: GGUFShape) -> list[TensorSource]:
    rules = family.rules(shape.layers)
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != ROPE_FREQS}
    foreign = next((name for name in tensors if name not in rules), None)
    if foreign is not None:
        raise ModelError(f"its tensor {foreign!r} is not part of a {shape.architecture} model")
    missing = next((name for name, rule in rules.items() if not rule.optional and name not in tensors), None)
    if missing is not None:
        raise ModelError(f"its tensor {missing!r} is missing")
    for name, tensor in tensors.items():
        if tensor.shape != stored_shape(name, shape):
            raise ModelError(
                f"its tensor {name!r} has shape {tensor.shape}; {stored_shape(name, shape)} is needed"
            )
    if shape.tied and HEAD in tensors:
        tensors[EMBEDDING] = max(tensors[EMBEDDING], tensors.pop(HEAD), key=lambda tensor: tensor.bits)
    return [_source(tensors[name], rule, shape) for name, rule in rules.items() if name in tensors]


def _source(tensor: PackedTensor, rule: Rule, shape: GGUFShape) -> TensorSource:
    # Numbers of 16 bits stay so; a norm may have had 1 subtracted, and is small.
    dtype = tensor.type if tensor.type in _SIXTEEN_BITS and len(tensor.shape) > 1 else "F32"
    stored = tensor.shape[::-1] if rule.transposes else tensor.shape
    return TensorSource(rule.name, dtype, stored, lambda: _pieces(tensor, rule, shape))


def _pieces(tensor: PackedTensor, rule: Rule, shape: GGUFShape) -> "Iterator[NDArray[np.float32]]":
    if not rule.by_rows or len(tensor.shape) == 1:
        yield _finite(rule.read(tensor.read(), shape), tensor)
        return
    step = max(1, _PIECE_NUMBERS // tensor.shape[1])
    for start in range(0, tensor.shape[0], step):
        yield _finite(tensor.read(slice(start, start + step)), tensor)


def _finite(numbers: "NDArray[np.float32]", tensor: PackedTensor) -> "NDArray[np.float32]":
    import numpy as np

    if not np.isfinite(numbers).all():
        raise ModelError(f"the weights are damaged: tensor {tensor.name!r} contains NaN or infinity")
    return numbers


def _origin(file: GGUFFile, digest: str) -> dict[str, Any]:
    """What is worth knowing of where a folder's weights come from."""
    numbers = Counter(tensor.type for tensor in file.tensors.values())
    return {
        "format": _FORMAT,
        "file": file.path.name,
        "sha256": digest,
        "number_formats": dict(numbers),
        **{name: file.keys[key] for name, key in _NOTED_KEYS.items() if isinstance(file.keys.get(key), str)},
    }


def _fingerprints(folder: Path) -> dict[str, Any]:
    """Each file's digest, or for a large one its size."""
    paths = sorted(path for path in folder.iterdir() if path.name != ORIGIN_FILE)
    return {
        path.name: sha256_file(path) if path.stat().st_size < _DIGESTED_BELOW_BYTES else path.stat().st_size
        for path in paths
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error_text(error)
        raise CheckpointError(f"the converted model could not be stored in {folder}: {reason}") from error
