"""Checkpoint folders, as Hugging Face lays them out: read into a `GPT2`, written from one.

Main entries: `load_checkpoint`, `save_checkpoint`. Only safetensors and JSON are read. Invariant: a folder
being saved holds, at every moment, either what it held before or the whole new checkpoint.

A checkpoint spells matrices (in, out), as OpenAI's Conv1D did, and `GPT2` (out, in); it may or may not put
``transformer.`` before names, store the tied head once more, and be split over several files.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from conjure.core.files import replace_folder, restore_folder
from conjure.errors import CheckpointError, ConflictError, ModelError, NotFoundError
from conjure.lm.config import GPT2Config
from conjure.lm.model import GPT2
from conjure.lm.tensor_file import StoredTensor, TensorFile, same_bytes
from conjure.lm.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# What a checkpoint folder is made of. Saving replaces the folder, so it must hold nothing else.
CHECKPOINT_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "model*.safetensors",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "README.md",
    "training.json",
    "report.html",
    "report.json",
)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")
_PREFIX = "transformer."
_HEAD, _EMBEDDING = "lm_head.weight", "wte.weight"
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# The causal mask, which early checkpoints stored with the weights.
_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Source:
    """One stored tensor and the open file that holds it."""

    file: TensorFile
    tensor: StoredTensor


def load_checkpoint(folder: Path | str, dtype: torch.dtype = torch.float32) -> tuple[GPT2, Tokenizer]:
    """The model and tokenizer of a checkpoint folder.

    Args:
        folder: Where ``config.json``, ``model.safetensors`` and the tokenizer's files are.
        dtype: Of the weights in memory, whatever the file's.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: It is incomplete, damaged or of a refused kind.
    """
    model = load_model(folder, dtype)
    return model, Tokenizer.from_folder(Path(folder))


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> GPT2:
    """The model of a checkpoint folder, in `eval` mode; arguments and errors as for `load_checkpoint`."""
    folder = Path(folder)
    config = read_config(folder)
    with ExitStack() as files:
        sources = _canonical(folder, _open_weights(folder, files))
        config = _settle_head(config, sources)
        with torch.device("meta"):
            model = GPT2(config)
        _check_fit(folder, model, sources)
        state = {
            name: source.file.read(source.tensor.name, dtype, transpose=name.endswith(_TRANSPOSED))
            for name, source in sources.items()
        }
    model.load_state_dict(state, assign=True)
    return model.eval()


def read_config(folder: Path | str) -> GPT2Config:
    """The configuration of a checkpoint folder; no weight is touched.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: ``config.json`` is missing, damaged, or not a GPT-2 that can be built.
    """
    folder = Path(folder)
    if not folder.is_dir():
        restore_folder(folder)  # a save may have been cut off between two renames
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise NotFoundError(f"model folder {folder} {kind}")
    try:
        return GPT2Config.from_dict(read_json_object(folder / CONFIG_FILE))
    except ModelError as error:
        raise CheckpointError(f"the model in {folder} cannot be used: {error}") from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint folder holds a tokenizer's files."""
    return any((folder / name).exists() for name in _TOKENIZER_FILES)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        CheckpointError: It is missing, unreadable, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a model folder: it has no {path.name}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds a {type(content).__name__}, not an object")
    return content


def _open_weights(folder: Path, files: ExitStack) -> dict[str, _Source]:
    """Every stored tensor by its stored name; the files stay open until `files` is left."""
    if (folder / WEIGHTS_FILE).exists():
        file = files.enter_context(TensorFile(folder / WEIGHTS_FILE))
        return {name: _Source(file, tensor) for name, tensor in file.tensors.items()}
    if (folder / INDEX_FILE).exists():
        return _open_shards(folder, files)
    for name in PICKLE_FILES:
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder} holds its weights only as {name}, a pickle, which could run code when it is read",
                fix=f"conjure models convert {folder}",
            )
    raise CheckpointError(f"{folder} holds no weights: {WEIGHTS_FILE} is needed")


def _open_shards(folder: Path, files: ExitStack) -> dict[str, _Source]:
    index = folder / INDEX_FILE
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index} is damaged: its weight_map does not name a file for each tensor")
    opened: dict[str, TensorFile] = {}
    sources = {}
    for name, place in places.items():
        if place in ("", ".", "..") or Path(place).name != place:
            raise CheckpointError(f"{index} names the file {place!r}, which is not in its own folder")
        if place not in opened:
            opened[place] = files.enter_context(TensorFile(folder / place))
        if name not in opened[place].tensors:
            raise CheckpointError(f"tensor {name} is missing from {folder / place}, where the index puts it")
        sources[name] = _Source(opened[place], opened[place].tensors[name])
    return sources


def _canonical(folder: Path, stored: Mapping[str, _Source]) -> dict[str, _Source]:
    """The same tensors by `GPT2`'s names, without the mask buffers."""
    sources: dict[str, _Source] = {}
    for stored_name, source in stored.items():
        name = stored_name.removeprefix(_PREFIX)
        if _MASK_BUFFER.fullmatch(name):
            continue
        if name in sources:
            raise CheckpointError(
                f"tensor {name} is stored twice in {folder}, with and without the prefix {_PREFIX!r}"
            )
        sources[name] = source
    return sources


def _settle_head(config: GPT2Config, sources: dict[str, _Source]) -> GPT2Config:
    """Decide whether the head is tied, as transformers does: by what is stored, where that is telling.

    A stored head equal to the embedding is left out of `sources`; one that differs is a head of its own,
    whatever the configuration says; one without an embedding beside it is the embedding.
    """
    if not config.tie_word_embeddings or _HEAD not in sources:
        return config
    if _EMBEDDING not in sources:
        sources[_EMBEDDING] = sources.pop(_HEAD)
        return config
    head, embedding = sources[_HEAD], sources[_EMBEDDING]
    if same_bytes(head.file, head.tensor, embedding.file, embedding.tensor):
        del sources[_HEAD]
        return config
    return replace(config, tie_word_embeddings=False)


def _check_fit(folder: Path, model: GPT2, sources: Mapping[str, _Source]) -> None:
    """Refuse, all at once, what keeps the stored tensors from being this model's."""
    needed = {name: _stored_shape(name, weight) for name, weight in model.state_dict().items()}
    faults = [
        f"tensor {source.tensor.name} has shape {source.tensor.shape} and {needed[name]} is needed"
        for name, source in sources.items()
        if name in needed and source.tensor.shape != needed[name]
    ]
    faults += [
        f"tensor {source.tensor.name} holds {_words(source.tensor.dtype)} numbers, which are not weights"
        for name, source in sources.items()
        if name in needed and not source.tensor.dtype.is_floating_point
    ]
    missing = [f"{name} {needed[name]}" for name in needed if name not in sources]
    faults += [f"tensor {name} is missing" for name in missing]
    extra = [source.tensor for name, source in sources.items() if name not in needed]
    faults += [f"tensor {tensor.name} {tensor.shape} is not part of the model" for tensor in extra]
    if faults:
        more = len(faults) - _NAMES_SHOWN
        listed = "; ".join(faults[:_NAMES_SHOWN]) + (f"; and {more} more such faults" if more > 0 else "")
        raise CheckpointError(f"the weights in {folder} do not fit its {CONFIG_FILE}: {listed}")


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _stored_shape(name: str, weight: Tensor) -> tuple[int, ...]:
    shape = tuple(weight.shape)
    return shape[::-1] if name.endswith(_TRANSPOSED) else shape


def save_checkpoint(
    folder: Path | str,
    model: GPT2,
    tokenizer: Tokenizer | None,
    *,
    dtype: torch.dtype | None = None,
    training: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write a checkpoint folder that conjure, transformers, vLLM and llama.cpp's converter read.

    Args:
        folder: Where to; an older checkpoint there is replaced, whole and at once.
        model: Its weights, on any device.
        tokenizer: Its tokenizer; None where the model has none.
        dtype: Of the stored weights; None keeps the model's.
        training: What ``training.json`` shall say: how the model came to be.
        card: Text of the model card, ``README.md``.

    Raises:
        ConflictError: The folder holds something that is not part of a checkpoint.
        CheckpointError: It cannot be written (disk full, no permission); what was there is untouched.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    stored = dtype if dtype is not None else model.wte.weight.dtype
    with _saving(folder), replace_folder(folder) as fresh:
        write_weights(fresh / WEIGHTS_FILE, model, stored)
        settings = {**model.config.to_dict(), "dtype": _words(stored)}
        _write_json(fresh / CONFIG_FILE, settings)
        _write_json(fresh / "generation_config.json", _generation_settings(model.config))
        if tokenizer is not None:
            tokenizer.save(fresh, context_length=model.config.context_length)
        if training is not None:
            _write_json(fresh / "training.json", training)
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")


def write_weights(path: Path, model: GPT2, dtype: torch.dtype) -> None:
    """Write a model's weights as one safetensors file, with the names and layout checkpoints use."""
    save_file(checkpoint_tensors(model, dtype), path, metadata={"format": "pt"})
    path.chmod(0o644)


def checkpoint_tensors(model: GPT2, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's weights by the names and in the layout checkpoints use, contiguous, on the CPU."""
    tensors = {}
    for name, weight in model.named_parameters():
        layout = weight.detach().t() if name.endswith(_TRANSPOSED) else weight.detach()
        stored_name = name if name == _HEAD else _PREFIX + name
        tensors[stored_name] = layout.to("cpu", dtype).contiguous()
    return tensors


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConflictError(f"{folder} is a file, and a checkpoint is a folder")
    held = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in held if not any(fnmatch(name, known) for known in CHECKPOINT_FILES)]
    if foreign:
        raise ConflictError(
            f"saving a checkpoint would replace {folder}, which also holds {foreign[0]!r}",
            fix="name a new folder",
        )
    if held and CONFIG_FILE not in held:
        raise ConflictError(
            f"saving would replace {folder}, which is not empty and not a checkpoint",
            fix="name a new folder",
        )


@contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """Say what went wrong with the disk in one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"the checkpoint could not be saved to {folder}: {reason}") from error


def _generation_settings(config: GPT2Config) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
