"""Models for other tools: a GGUF file, or a plain checkpoint folder.

Main entry: `export`. GGUF is the format of llama.cpp and of what is built on it; its own `gguf` library
writes it. Invariant: what is written is whole or not there at all, and says the same as the model: float16 to
the last bit it holds, q8_0 to half a step of its scale (tests/unit/lm/checkpoints/test_export.py).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conjure.core.files import expand_user, folder_size_bytes, real_path, staging_folder, sync_folder
from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.errors import CheckpointError, ConflictError, ModelError, UsageError, option
from conjure.lm.checkpoints.adapters import apply_adapter
from conjure.lm.checkpoints.checkpoint_folder import has_tokenizer, read_config, stored_dtype
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.checkpoints.gguf.reader import gguf_library
from conjure.lm.checkpoints.gguf.writing import add_keys, header_keys, stored_tensors, vocabulary_keys
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource, resolve_model
from conjure.lm.checkpoints.pretrained import (
    check_can_save,
    checkpoint_tensors,
    load_checkpoint,
    load_model,
    save_checkpoint,
    saving,
)
from conjure.lm.checkpoints.provenance import CARD_FILE, BaseFacts, export_card
from conjure.lm.models.base import CausalLM
from conjure.lm.models.shape import Shape
from conjure.lm.text.chat.template import template_source
from conjure.lm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from numpy.typing import NDArray

# Format -> the number formats it can have here.
TYPES: Mapping[str, tuple[str, ...]] = {
    "gguf": ("float16", "q8_0", "float32"),
    "ollama": ("float16", "q8_0", "float32"),
    "safetensors": ("float32", "bfloat16", "float16"),
}
MODELFILE = "Modelfile"
# What a folder is not called by intent; ./gguf is one.
_FORMAT_WORDS = {*TYPES, "onnx", "pytorch", "float16", "float32", "bfloat16", "q8_0"}
_GGML_TYPES = {"float16": "F16", "q8_0": "Q8_0", "float32": "F32"}
_OLLAMA_CONTEXT = 8_192  # at most: Ollama reserves memory for all of it when it loads the model
_LARGEST_FLOAT16 = 65504.0
_Q8_BLOCK = 32  # numbers that share a scale

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: The GGUF file, for ollama the Modelfile beside it, or the checkpoint folder.
        format: ``gguf``, ``ollama`` or ``safetensors``.
        type: Number format of the matrices.
        size_bytes: On disk.
    """

    path: Path
    format: str
    type: str
    size_bytes: int


def export(
    name: str | Path,
    folder: str | Path,
    *,
    format: str = "gguf",
    type: str | None = None,
    adapter: str | Path | None = None,
    lookups: Iterable[Lookup] = (),
    progress: Progress | None = None,
) -> Exported:
    """Write a model for other tools.

    Args:
        name: Name or folder of the model.
        folder: Where to: a GGUF file goes into it, under the model's name; a checkpoint is it.
        format: ``gguf``, ``ollama`` (a GGUF file and the Modelfile to create a model from it) or
            ``safetensors``.
        type: Number format, one of `TYPES`; None takes float16 for GGUF, else that of the model's file.
        adapter: A PEFT folder whose LoRA weights to merge into the model.
        lookups: Tell the folders of names only the caller knows, such as ``runs/3``.
        progress: Told the tensors done and in all.

    Raises:
        UsageError: No such format or type, or one that cannot hold this model.
        NotFoundError: There is no such model.
        ConflictError: There is something already.
        ModelError: The format cannot describe this model.
        CheckpointError: The model cannot be read, or the result not written.
    """
    if format not in TYPES:
        raise UsageError(f"format is {format!r}; allowed: {', '.join(TYPES)}")
    if type is not None and type not in TYPES[format]:
        raise UsageError(f"type is {type!r}; for {format} it can be {' or '.join(TYPES[format])}")
    if str(folder).lower() in _FORMAT_WORDS:
        chosen = str(folder).lower()
        raise UsageError(
            f"{folder} is a format; give the name of a folder",
            fix=shell_words("conjure", "export", str(name), f"{folder}-model", "--format", chosen)
            if chosen in TYPES
            else shell_words("conjure", "export", str(name), f"./{folder}"),
        )
    base = resolve_model(name, lookups=lookups, with_card=True)
    facts = BaseFacts.of(base.name, base.folder)
    source = apply_adapter(base, adapter)
    folder = real_path(folder)
    if format == "safetensors":
        _refuse_used_folder(folder)
        return _export_checkpoint(source, folder, type, facts, _card(base, facts, adapter))
    type = type if type is not None else "float16"
    if format == "ollama":
        return _export_ollama(source, folder, type, facts, progress)
    return _export_gguf(source, folder, type, facts, progress)


def _export_ollama(
    source: ModelSource, folder: Path, chosen: str, facts: BaseFacts, progress: Progress | None
) -> Exported:
    """A GGUF file, and last the Modelfile that names it."""
    path = folder / MODELFILE
    _refuse_existing(path)
    written = _export_gguf(source, folder, chosen, facts, progress)
    context = min(read_config(source.folder).context_length, _OLLAMA_CONTEXT)
    lines = [f"FROM ./{written.path.name}", f"PARAMETER num_ctx {context}"]
    # A chat template Ollama takes from the GGUF file; a model that knows no roles gets the text as it is.
    if template_source(Tokenizer.from_folder(source.folder)) is None:
        lines.insert(1, 'TEMPLATE "{{ .Prompt }}"')
    with _whole_file(path) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Exported(path, "ollama", chosen, written.size_bytes + path.stat().st_size)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConflictError(f"{path} already exists", hint="give another folder, or remove it")


def _refuse_used_folder(folder: Path) -> None:
    """Refuse to put a checkpoint in place of another, which may be the model itself."""
    with saving(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise ConflictError(f"{folder} is not empty", hint="give another folder, or remove it")
    check_can_save(folder)


def _card(base: ModelSource, facts: BaseFacts, adapter: str | Path | None) -> str:
    """The model's own card; of one that has none, or is changed by an adapter, what is known of it."""
    card = base.folder / CARD_FILE
    if adapter is None and card.exists():
        return card.read_text(encoding="utf-8")
    return export_card(facts, None if adapter is None else real_path(expand_user(adapter)).name)


def _export_checkpoint(
    source: ModelSource, folder: Path, chosen: str | None, facts: BaseFacts, card: str
) -> Exported:
    dtype = chosen if chosen is not None else stored_dtype(source.folder)
    model = load_model(source.folder)
    if dtype == "float16":
        for weight_name, weight in checkpoint_tensors(model, torch.float32).items():
            _check_rounding(weight_name, weight.numpy(), dtype)
    save_checkpoint(
        folder,
        model,
        Tokenizer.from_folder(source.folder) if has_tokenizer(source.folder) else None,
        dtype=getattr(torch, dtype),
        card=card,
        licence_texts=facts.licence_texts,
        training=read_training(source.folder),
    )
    return Exported(folder, "safetensors", dtype, folder_size_bytes(folder))


def _export_gguf(
    source: ModelSource, folder: Path, chosen: str, facts: BaseFacts, progress: Progress | None
) -> Exported:
    library = gguf_library("writing GGUF")
    path = folder / f"{_file_stem(source)}-{chosen}.gguf"
    _refuse_existing(path)
    if not has_tokenizer(source.folder):
        raise CheckpointError(f"the model {source} has no tokenizer, which a GGUF file must contain")
    model, tokenizer = load_checkpoint(source.folder)
    architecture, keys, _ = header_keys(model.config)
    with _whole_file(path) as unfinished:
        writer = library.GGUFWriter(unfinished, architecture)
        _add_model(writer, architecture, keys, _file_stem(source), chosen)
        _add_licence(writer, facts)
        add_keys(writer, vocabulary_keys(tokenizer, model.config.vocab_size, model.config.bos_id))
        _add_tensors(writer, model, chosen, progress)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Exported(path, "gguf", chosen, path.stat().st_size)


def _file_stem(source: ModelSource) -> str:
    """A file's name for the model: ``sprite``, ``gpt2``, ``runs-3``, the last part of a folder's path."""
    name = source.name.partition("@")[0] if source.kind == "hub" else source.name
    if source.kind in ("folder", "hub"):
        name = real_path(name).name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _add_model(
    writer: "gguf.GGUFWriter", architecture: str, keys: Mapping[str, Any], name: str, chosen: str
) -> None:
    library = gguf_library("writing GGUF")
    writer.add_name(name)
    add_keys(writer, {f"{architecture}.{key}": value for key, value in keys.items()})
    exact = {"float32": "ALL_F32"}
    writer.add_file_type(library.LlamaFileType[exact.get(chosen, f"MOSTLY_{_GGML_TYPES[chosen]}")])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)


def _add_licence(writer: "gguf.GGUFWriter", facts: BaseFacts) -> None:
    if facts.licence is not None:
        writer.add_license(facts.licence)
    if facts.licence_name is not None:
        writer.add_license_name(facts.licence_name)


def _add_tensors(writer: "gguf.GGUFWriter", model: CausalLM, chosen: str, progress: Progress | None) -> None:
    library = gguf_library("writing GGUF")
    tensors = {name: each.numpy() for name, each in checkpoint_tensors(model, torch.float32).items()}
    assert isinstance(model.config, Shape)  # else it has no keys
    stored = list(stored_tensors(model.config, tensors))
    for done, (name, ours, numbers) in enumerate(stored, 1):
        # Matrices are rounded; norms, biases and positions are small, and stay exact.
        is_matrix = numbers.ndim == 2 and name != "position_embd.weight"
        if is_matrix and chosen != "float32":
            _check_rounding(ours, numbers, chosen)
        kind = library.GGMLQuantizationType[_GGML_TYPES[chosen] if is_matrix else "F32"]
        writer.add_tensor(name, library.quants.quantize(numbers, kind), raw_dtype=kind)
        if progress is not None:
            progress(done, len(stored))


def _check_rounding(name: str, numbers: "NDArray[np.float32]", chosen: str) -> None:
    """Refuse numbers that a format cannot hold.

    Raises:
        ModelError: They are too large.
        UsageError: Rows do not divide into q8_0's blocks.
    """
    largest = float(abs(numbers).max())
    if not largest <= _LARGEST_FLOAT16:  # q8_0's scales are float16, too
        raise ModelError(
            f"the largest number in float16 is {_LARGEST_FLOAT16:,.0f}; {name} has {largest:,.0f}"
        )
    if chosen == "q8_0" and numbers.shape[1] % _Q8_BLOCK:
        raise UsageError(
            f"q8_0 needs rows of a multiple of {_Q8_BLOCK} numbers; {name} has rows of {numbers.shape[1]}",
            fix=option("type", "float16"),
        )


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file to write to, which becomes `path` when the block ends well and is removed when not.

    Raises:
        CheckpointError: The disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(path.parent, f".{path.name}.new-") as staging:
            unfinished = staging / path.name
            yield unfinished
            unfinished.chmod(0o644)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.rename(path)
            sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error_text(error)}") from error
