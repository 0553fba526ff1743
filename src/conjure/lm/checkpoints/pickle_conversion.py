"""Between safetensors and the pickles that old tools read and write: the one explicit door between the two.

Main entry: `convert`. Invariant: a pickle is read with torch's ``weights_only`` unpickler, which makes
tensors and runs no code, only when a user asked for it by name; what comes out has been loaded once, whole.
"""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from conjure.core.files import open_regular, real_path, replace_folder, staging_folder, sync_folder
from conjure.core.text import error_text
from conjure.errors import CheckpointError, ConflictError, UsageError, option
from conjure.lm.checkpoints.checkpoint_folder import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    CONVERTING,
    EMBEDDING,
    HEAD,
    INDEX_FILE,
    WEIGHTS_FILE,
    read_config,
    read_index,
    stored_dtype,
)
from conjure.lm.checkpoints.pretrained import (
    checkpoint_tensors,
    load_model,
    refuse_current_folder,
    saving,
)
from conjure.lm.checkpoints.tensor_layout import file_names
from conjure.lm.models.registry import family_of

PICKLE_FILE = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_TARGETS = {"safetensors": WEIGHTS_FILE, "pytorch": PICKLE_FILE}


def convert(folder: Path | str, output: Path | str | None = None, *, to: str = "safetensors") -> Path:
    """Write a checkpoint's weights in the other format.

    Args:
        folder: A checkpoint folder; its own files stay as they are.
        output: A new folder that gets the weights and the checkpoint's other files; None puts the weights
            into `folder`, beside those that are there.
        to: ``safetensors`` (from ``pytorch_model.bin``) or ``pytorch`` (from safetensors).

    Returns:
        The path of the weights written.

    Raises:
        UsageError: `to` is another word.
        NotFoundError: There is no such folder.
        ConflictError: What would be written is there already.
        CheckpointError: The weights are missing, damaged or more than weights; nothing is written.
    """
    if to not in _TARGETS:
        raise UsageError(f"weights can be converted to {' or '.join(_TARGETS)}, not to {to!r}")
    folder, name = Path(folder), _TARGETS[to]
    read_config(folder)  # a folder that is no model is refused as such
    target = real_path(output if output is not None else folder)
    _check_free(target, name, in_place=output is None)
    write = _write_safetensors if to == "safetensors" else _write_pickle
    if output is None:
        _write_beside(target, name, write)
    else:
        with saving(target), replace_folder(target) as fresh:
            _copy_other_files(folder, fresh)
            write(folder, fresh)
    return target / name


def _check_free(target: Path, name: str, *, in_place: bool) -> None:
    if in_place and (target / name).exists():
        raise ConflictError(
            f"{target} already contains {name}", hint=f"give another folder with {option('output')}"
        )
    if not in_place and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConflictError(f"{target} already exists", hint=f"give a new folder with {option('output')}")
    if not in_place:
        refuse_current_folder(target)


def _write_beside(folder: Path, name: str, write: Callable[[Path, Path], None]) -> None:
    """Add one file to a folder, at once: built in a hidden folder beside it and moved when it is whole."""
    with saving(folder), staging_folder(folder, CONVERTING) as staging:
        shutil.copyfile(folder / CONFIG_FILE, staging / CONFIG_FILE)
        write(folder, staging)
        (staging / name).rename(folder / name)
        sync_folder(folder)


def _copy_other_files(folder: Path, fresh: Path) -> None:
    weights = {WEIGHTS_FILE, INDEX_FILE}
    for pattern in CHECKPOINT_FILES:
        for path in folder.glob(pattern):
            if path.name not in weights and path.suffix != ".safetensors" and path.is_file():
                shutil.copyfile(path, fresh / path.name)


def _write_safetensors(folder: Path, fresh: Path) -> None:
    config = read_config(folder)
    head = file_names(config, HEAD)[0] if family_of(config).has_head else None
    save_file(_read_pickles(folder, head), fresh / WEIGHTS_FILE, metadata={"format": "pt"})
    (fresh / WEIGHTS_FILE).chmod(0o644)
    load_model(fresh)  # what does not load is not handed out


def _write_pickle(folder: Path, fresh: Path) -> None:
    model = load_model(folder, getattr(torch, stored_dtype(folder)))
    tensors = checkpoint_tensors(model, model.dtype)
    if family_of(model.config).has_head:
        (head,), (embedding,) = file_names(model.config, HEAD), file_names(model.config, EMBEDDING)
        tensors.setdefault(head, tensors[embedding])  # old tools look for it by name
    # Every torch there is reads the format before zip.
    torch.save(tensors, fresh / PICKLE_FILE, _use_new_zipfile_serialization=False)


def _read_pickles(folder: Path, head: str | None) -> dict[str, Tensor]:
    """All tensors of a checkpoint's pickles, each in memory of its own; `head` is what it calls the head."""
    tensors: dict[str, Tensor] = {}
    for path in _pickle_paths(folder):
        content = _unpickle(path)
        for name, tensor in content.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                raise CheckpointError(f"{path} contains more than named tensors: {name!r} is not one")
            tensors[name] = tensor.detach().contiguous()
    seen: set[int] = set()
    for name, tensor in list(tensors.items()):
        place = tensor.untyped_storage().data_ptr()
        if place in seen and name == head:
            del tensors[name]  # tied: the embedding is there
        elif place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def _pickle_paths(folder: Path) -> list[Path]:
    if (folder / PICKLE_FILE).exists():
        return [folder / PICKLE_FILE]
    if not (folder / _PICKLE_INDEX).exists():
        raise CheckpointError(f"{folder} contains no {PICKLE_FILE} to convert")
    return [folder / place for place in sorted(set(read_index(folder / _PICKLE_INDEX).values()))]


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
    try:
        with file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or contains more than tensors, which could run code"
        ) from error
    except MemoryError:
        raise  # says nothing of the file
    except Exception as error:  # fed rubbish, an unpickler can raise anything
        raise CheckpointError(
            f"{path} is damaged: it cannot be unpickled ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a table of named tensors")
    return content
