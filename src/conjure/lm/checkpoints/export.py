"""Models for other tools: a GGUF file, or a plain checkpoint folder.

Main entry: `export`. GGUF is the format of llama.cpp and of what is built on it; its own `gguf` library
writes it. Invariant: what is written is whole or not there at all, and says the same as the model: float16 to
the last bit it holds, q8_0 to half a step of its scale (tests/unit/lm/test_export.py).
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from conjure.core.files import folder_size_bytes, sync_folder
from conjure.core.quoting import shell_words
from conjure.errors import CheckpointError, ConflictError, ModelError, UsageError
from conjure.lm.checkpoints.layout import has_tokenizer, read_json_object, stored_dtype
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource, resolve_model
from conjure.lm.checkpoints.pretrained import load_checkpoint, load_model, save_checkpoint
from conjure.lm.checkpoints.tensor_layout import stored_names
from conjure.lm.models.base import CausalLM
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.lm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf

# Format -> the number formats it can have here.
TYPES: Mapping[str, tuple[str, ...]] = {
    "gguf": ("float16", "q8_0"),
    "safetensors": ("float32", "bfloat16", "float16"),
}
# What a folder is not called by intent; ./gguf is one.
_FORMAT_WORDS = {*TYPES, "ollama", "onnx", "pytorch", "float16", "float32", "bfloat16", "q8_0"}
_GGML_TYPES = {"float16": "F16", "q8_0": "Q8_0"}
_LARGEST_FLOAT16 = 65504.0
_Q8_BLOCK = 32  # numbers that share a scale

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: The GGUF file, or the checkpoint folder.
        format: ``gguf`` or ``safetensors``.
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
    lookups: Iterable[Lookup] = (),
    progress: Progress | None = None,
) -> Exported:
    """Write a model for other tools.

    Args:
        name: Name or folder of the model.
        folder: Where to: a GGUF file goes into it, under the model's name; a checkpoint is it.
        format: ``gguf`` or ``safetensors``.
        type: Number format, one of `TYPES`; None takes float16 for GGUF, else that of the model's file.
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
        raise UsageError(f"format is {format!r}; allowed are {' and '.join(TYPES)}")
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
    source, folder = resolve_model(name, lookups=lookups), Path(folder).resolve()
    if format == "safetensors":
        return _export_checkpoint(source, folder, type)
    return _export_gguf(source, folder, type if type is not None else "float16", progress)


def _export_checkpoint(source: ModelSource, folder: Path, chosen: str | None) -> Exported:
    dtype = chosen if chosen is not None else stored_dtype(source.folder)
    model = load_model(source.folder)
    if dtype == "float16":
        for weight_name, weight in model.named_parameters():
            _check_float16(model, weight_name, weight)
    card, training = source.folder / "README.md", source.folder / "training.json"
    save_checkpoint(
        folder,
        model,
        Tokenizer.from_folder(source.folder) if has_tokenizer(source.folder) else None,
        dtype=getattr(torch, dtype),
        card=card.read_text(encoding="utf-8") if card.exists() else None,
        training=read_json_object(training) if training.exists() else None,
    )
    return Exported(folder, "safetensors", dtype, folder_size_bytes(folder))


def _export_gguf(source: ModelSource, folder: Path, chosen: str, progress: Progress | None) -> Exported:
    library = _gguf_library()
    path = folder / f"{_file_stem(source)}-{chosen}.gguf"
    if path.exists():
        raise ConflictError(f"{path} already exists", hint="give another folder, or remove it")
    if not has_tokenizer(source.folder):
        raise CheckpointError(f"the model {source} has no tokenizer, which a GGUF file must hold")
    model, tokenizer = load_checkpoint(source.folder)
    shape = _check_expressible(model.config, chosen)
    with _whole_file(path) as unfinished:
        writer = library.GGUFWriter(unfinished, "gpt2")
        _add_model(writer, shape, _file_stem(source), chosen)
        _add_tokenizer(writer, tokenizer, model.config.vocab_size)
        _add_tensors(writer, model, chosen, progress)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Exported(path, "gguf", chosen, path.stat().st_size)


def _gguf_library() -> ModuleType:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise UsageError(
            "writing GGUF needs the gguf library, which is not installed", fix="pip install 'conjure[export]'"
        ) from error
    return gguf


def _file_stem(source: ModelSource) -> str:
    """A file's name for the model: ``sprite``, ``gpt2``, ``runs-3``, the last part of a folder's path."""
    name = source.name.partition("@")[0] if source.kind == "hub" else source.name
    if source.kind in ("folder", "hub"):
        name = Path(name).resolve().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _check_expressible(config: ModelConfig, chosen: str) -> Shape:
    """Refuse what GGUF has no words for, or what llama.cpp's GPT-2 would compute otherwise.

    Raises:
        ModelError: The model is such a one.
        UsageError: Its matrices do not divide into q8_0's blocks.
    """
    if config.family != "gpt2" or not isinstance(config, Shape):
        raise ModelError(
            f"GGUF is written of gpt2 models so far, and this is a {config.family}",
            hint="--format safetensors",
        )
    if config.activation != "gelu_tanh":
        raise ModelError(
            f"llama.cpp's GPT-2 has activation_function gelu_new, and this model {config.activation}"
        )
    if any(layer.score_scale != config.head_size**-0.5 for layer in config.layers):
        raise ModelError("llama.cpp's GPT-2 scales attention by the head size, and this model otherwise")
    if chosen == "q8_0" and (config.n_embd % _Q8_BLOCK or config.inner % _Q8_BLOCK):
        raise UsageError(
            f"q8_0 needs rows of a multiple of {_Q8_BLOCK} numbers; this model has n_embd {config.n_embd} and"
            f" {config.inner} inside the feed-forward layer",
            fix="--type float16",
        )
    return config


def _add_model(writer: "gguf.GGUFWriter", config: Shape, name: str, chosen: str) -> None:
    library = _gguf_library()
    writer.add_name(name)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(library.LlamaFileType[f"MOSTLY_{_GGML_TYPES[chosen]}"])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)


def _add_tokenizer(writer: "gguf.GGUFWriter", tokenizer: Tokenizer, vocab_size: int) -> None:
    """The vocabulary, filled up to the model's: llama.cpp wants a token for every row of the embedding."""
    kinds = _gguf_library().TokenType
    tokens = tokenizer.tokens + [""] * (vocab_size - tokenizer.vocab_size)
    special, added = tokenizer.special_tokens, tokenizer.added_tokens

    def kind(token: str) -> int:
        if token in special:
            return kinds.CONTROL
        if token in added:  # found in a text before it is cut, and spelled as it is
            return kinds.USER_DEFINED
        return kinds.NORMAL if token else kinds.UNUSED

    types = list(map(kind, tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # without it llama.cpp splits words in a way of its own
    writer.add_token_list([token or f"[PAD{id_}]" for id_, token in enumerate(tokens)])
    writer.add_token_types(types)
    writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(tokenizer.end_of_text_id)
    writer.add_eos_token_id(tokenizer.end_of_text_id)
    writer.add_add_bos_token(False)


def _add_tensors(writer: "gguf.GGUFWriter", model: CausalLM, chosen: str, progress: Progress | None) -> None:
    library = _gguf_library()
    names = library.get_tensor_name_map(library.MODEL_ARCH.GPT2, model.n_layer)
    parameters = dict(model.named_parameters())
    for done, (name, weight) in enumerate(parameters.items(), 1):
        # A matrix is (out, in), as GGUF has it; norms, biases and positions are small, and stay exact.
        matrix = weight.dim() == 2 and name != "position_embedding.weight"
        if matrix:
            _check_float16(model, name, weight)  # q8_0's scales are float16, too
        kind = library.GGMLQuantizationType[_GGML_TYPES[chosen] if matrix else "F32"]
        stored = library.quants.quantize(weight.detach().numpy(), kind)
        (file_name,) = stored_names(model.config, name)
        writer.add_tensor(
            names.get_name(file_name, try_suffixes=(".weight", ".bias")), stored, raw_dtype=kind
        )
        if progress is not None:
            progress(done, len(parameters))


def _check_float16(model: CausalLM, name: str, weight: torch.Tensor) -> None:
    largest = weight.detach().abs().max().item()
    if not largest <= _LARGEST_FLOAT16:
        stored = ", ".join(stored_names(model.config, name))
        raise ModelError(f"float16 holds numbers up to {_LARGEST_FLOAT16:,.0f}; {stored} has {largest:,.0f}")


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file to write to, which becomes `path` when the block ends well and is removed when not.

    Raises:
        CheckpointError: The disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        unfinished = Path(name)
        try:
            yield unfinished
            unfinished.chmod(0o644)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.rename(path)
            sync_folder(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error.strerror or error}") from error
