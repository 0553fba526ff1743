"""What a checkpoint folder holds: its configuration, its tensors, its other files.

Main entries: `read_config`, `open_tensors`. Everything that can be told without torch is here, so that
listing models is instant. Invariant: only JSON and safetensors are read, and only from the folder itself.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from conjure.core.files import open_regular, restore_folder
from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.errors import CheckpointError, ModelError, NotFoundError
from conjure.lm.checkpoints.safetensors_reader import StoredTensor, TensorFile
from conjure.lm.models.family import Family
from conjure.lm.models.registry import family_of, read_model_config
from conjure.lm.models.shape import ModelConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ORIGIN_FILE = "origin.json"  # what is noted of the GGUF file a folder was made from
ADAPTER_FILE = "adapter_config.json"  # of PEFT, in a folder that holds no model
LICENSE_FILES = "LICENSE*"  # which whoever passes the model on passes on with it
CONVERTING = ".convert-"  # begins the name of a folder in which new weights are made
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# All files that may hold weights, pickles included.
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")

# What a checkpoint folder is made of. Saving replaces the folder, so it must hold nothing else.
CHECKPOINT_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "model*.safetensors",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "README.md",
    LICENSE_FILES,
    "training.json",
    ORIGIN_FILE,
    "report.html",
    "report.json",
)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.")
HEAD, EMBEDDING = "lm_head.weight", "embedding.weight"  # by our names


def read_config(folder: Path | str) -> ModelConfig:
    """The configuration of a checkpoint folder; no weight is touched.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: ``config.json`` is missing, damaged, or not a model that can be built.
    """
    folder = Path(folder)
    if not folder.is_dir():
        restore_folder(folder)  # a save may have been cut off between two renames
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise NotFoundError(f"model folder {folder} {kind}")
    try:
        return read_model_config(read_json_object(folder / CONFIG_FILE))
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
        with open_regular(path) as file:
            content = json.loads(file.read())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a model folder: it has no {path.name}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it contains a {type(content).__name__}, not an object")
    return content


@contextmanager
def open_tensors(folder: Path, family: Family) -> Iterator[dict[str, StoredTensor]]:
    """The stored tensors by the family's names, without prefix and buffers; readable until the block is left.

    Raises:
        CheckpointError: The weights are missing, damaged or of a refused kind.
    """
    with ExitStack() as files:
        yield _canonical(folder, _open_all(folder, files), family)


def stored_dtype(folder: Path) -> str:
    """Torch's name of the weights' number format; only headers are read.

    Raises:
        CheckpointError: As `open_tensors`, or the tensors are not the model's.
    """
    family = family_of(read_config(folder))
    names = [family.stored(name)[1][0] for name in (EMBEDDING, *([HEAD] if family.has_head else []))]
    with open_tensors(folder, family) as tensors:
        for name in names:
            if name in tensors:
                return tensors[name].dtype
    raise CheckpointError(f"the weights in {folder} lack tensor {names[0]}")


def _open_all(folder: Path, files: ExitStack) -> dict[str, StoredTensor]:
    """Every stored tensor by its stored name; the files stay open until `files` is left."""
    if weight_files(folder) == [WEIGHTS_FILE]:
        return files.enter_context(TensorFile(folder / WEIGHTS_FILE)).tensors
    return _open_shards(folder, files)


def weight_files(folder: Path) -> list[str]:
    """The names of the files in a checkpoint folder that its weights are read from, in order.

    Raises:
        CheckpointError: The weights are missing or of a refused kind, or their index is damaged.
    """
    if (folder / WEIGHTS_FILE).exists():
        return [WEIGHTS_FILE]
    if (folder / INDEX_FILE).exists():
        return sorted(set(read_index(folder / INDEX_FILE).values()))
    for name in PICKLE_FILES:
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder} has its weights only as {name}, a pickle, which could run code when it is loaded",
                fix=f"conjure models convert {shell_words(str(folder))}",
            )
    raise CheckpointError(f"{folder} contains no weights: {WEIGHTS_FILE} is needed")


def _open_shards(folder: Path, files: ExitStack) -> dict[str, StoredTensor]:
    opened: dict[str, TensorFile] = {}
    tensors = {}
    for name, place in read_index(folder / INDEX_FILE).items():
        if place not in opened:
            opened[place] = files.enter_context(TensorFile(folder / place))
        if name not in opened[place].tensors:
            raise CheckpointError(
                f"tensor {name} is missing from {folder / place}, where the index says it is"
            )
        tensors[name] = opened[place].tensors[name]
    return tensors


def read_index(index: Path) -> dict[str, str]:
    """Tensor name to the name of the file, in the index's own folder, that holds it.

    Raises:
        CheckpointError: The index is damaged or points out of its folder.
    """
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index} is damaged: its weight_map does not name a file for each tensor")
    for place in places.values():
        if place in ("", ".", "..") or Path(place).name != place:
            raise CheckpointError(f"{index} names the file {place!r}, which is not in its own folder")
        if not place.isprintable():
            raise CheckpointError(f"{index} is damaged: it names the file {place!r}")
    return places


def _wrapper_of(names: Iterable[str]) -> str:
    """What wrappers (torch.compile, data parallelism) put before every tensor's name; mostly nothing."""
    found = ""
    while True:
        rest = [name.removeprefix(found) for name in names]
        wrapper = next((each for each in _WRAPPERS if rest and all(n.startswith(each) for n in rest)), None)
        if wrapper is None:
            return found
        found += wrapper


def _canonical(folder: Path, stored: Mapping[str, StoredTensor], family: Family) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    wrapper, buffers = _wrapper_of(stored), re.compile(family.buffers)
    for stored_name, tensor in stored.items():
        name = stored_name.removeprefix(wrapper).removeprefix(family.prefix)
        if buffers.fullmatch(name):
            continue
        if name in tensors:
            raise CheckpointError(
                f"tensor {name} is stored twice in {folder}, with and without the prefix {family.prefix!r}"
            )
        tensors[name] = tensor
    return tensors
