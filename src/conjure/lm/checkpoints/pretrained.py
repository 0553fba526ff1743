"""Checkpoint folders, as Hugging Face lays them out: read into a model, written from one.

Main entries: `load_checkpoint`, `save_checkpoint`. Only safetensors and JSON are read. Invariant: a folder
being saved holds, at every moment, either what it held before or the whole new checkpoint.

What a checkpoint calls its tensors and how it lays them out is its family's matter
(`conjure.lm.checkpoints.tensor_layout`); it may or may not put a prefix before names, store the tied head
once more, and be split over several files.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from conjure.core.files import (
    expand_user,
    holds_current_folder,
    real_path,
    remove_leftovers,
    replace_folder,
)
from conjure.core.text import error_text
from conjure.errors import CheckpointError, ConflictError
from conjure.lm.checkpoints.checkpoint_folder import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    CONVERTING,
    WEIGHTS_FILE,
    open_tensors,
    read_config,
)
from conjure.lm.checkpoints.checkpoint_weights import check_fit, load_tokenizer, settle_head
from conjure.lm.checkpoints.tensor_layout import assemble, take_apart
from conjure.lm.models.base import CausalLM
from conjure.lm.models.registry import build, config_settings, family_of
from conjure.lm.models.shape import ModelConfig
from conjure.lm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What is saved as a folder, in place of an older one.

    Attributes:
        name: What it is, in words.
        files: Patterns of the names that files in it can have.
        config: The file that every one has.
    """

    name: str
    files: Sequence[str]
    config: str


CHECKPOINT = FolderKind("a checkpoint", CHECKPOINT_FILES, CONFIG_FILE)


def load_checkpoint(folder: Path | str, dtype: torch.dtype = torch.float32) -> tuple[CausalLM, Tokenizer]:
    """The model and tokenizer of a checkpoint folder.

    Args:
        folder: Where ``config.json``, ``model.safetensors`` and the tokenizer's files are.
        dtype: Of the weights in memory, whatever the file's.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: It is incomplete, damaged or of a refused kind.
    """
    model = load_model(folder, dtype)
    tokenizer = load_tokenizer(Path(folder), model.config)
    if tokenizer is None:
        tokenizer = Tokenizer.from_folder(Path(folder))  # which says what is missing
    return model, tokenizer


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The model of a checkpoint folder, in `eval` mode; arguments and errors as for `load_checkpoint`."""
    with open_model(folder) as (model, read):
        state = {name: read(name, dtype) for name, _ in model.named_parameters()}
    model.load_state_dict(state, assign=True)
    return model.eval()


@contextmanager
def open_model(folder: Path | str) -> Iterator[tuple[CausalLM, Callable[[str, torch.dtype], Tensor]]]:
    """A checkpoint folder's model, to be read one weight at a time while the block lasts.

    Yields:
        The model, without weights (on torch's ``meta`` device), and what reads a weight by its name in the
        model, in the layout it has there and the dtype that is given.

    Raises:
        NotFoundError, CheckpointError: As for `load_checkpoint`.
    """
    folder = Path(folder)
    config = read_config(folder)
    with open_tensors(folder, family_of(config)) as tensors:
        config = settle_head(config, tensors)
        model = build(config)
        shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        check_fit(folder, config, shapes, tensors)

        def read(name: str, dtype: torch.dtype) -> Tensor:
            return assemble(config, name, lambda each, turn: tensors[each].read(dtype, transpose=turn))

        yield model, read


def save_checkpoint(
    folder: Path | str,
    model: CausalLM,
    tokenizer: Tokenizer | None,
    *,
    dtype: torch.dtype | None = None,
    training: Mapping[str, Any] | None = None,
    card: str | None = None,
    licence_texts: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint folder that conjure, transformers, vLLM and llama.cpp's converter read.

    Args:
        folder: Where to; an older checkpoint there is replaced, whole and at once.
        model: Its weights, on any device.
        tokenizer: Its tokenizer; None where the model has none.
        dtype: Of the stored weights; None keeps the model's.
        training: What ``training.json`` shall say: how the model came to be.
        card: Text of the model card, ``README.md``.
        licence_texts: Files with the license that the model is under, by name.

    Raises:
        ConflictError: The folder holds something that is not part of a checkpoint, or is the current one.
        CheckpointError: It cannot be written (disk full, no permission); what was there is untouched.
    """
    folder = real_path(expand_user(folder))
    refuse_replacing(folder)
    stored = dtype if dtype is not None else model.dtype
    with saving(folder), replace_folder(folder) as fresh:
        write_weights(fresh / WEIGHTS_FILE, model, stored)
        _write_json(fresh / CONFIG_FILE, _settings(model.config, stored))
        _write_json(fresh / "generation_config.json", _generation_settings(model.config, tokenizer))
        if tokenizer is not None:
            tokenizer.save(fresh, context_length=model.config.context_length)
        if training is not None:
            _write_json(fresh / "training.json", training)
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")
        for name, text in (licence_texts or {}).items():
            (fresh / name).write_bytes(text)


def write_weights(path: Path, model: CausalLM, dtype: torch.dtype) -> None:
    """Write a model's weights as one safetensors file, with the names and layout checkpoints use."""
    save_file(checkpoint_tensors(model, dtype), path, metadata={"format": "pt"})
    path.chmod(0o644)


def checkpoint_tensors(model: CausalLM, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's weights by the names and in the layout checkpoints use, contiguous, on the CPU."""
    tensors = {}
    for name, weight in model.named_parameters():
        for stored_name, part in take_apart(model.config, name, weight.detach()).items():
            tensors[stored_name] = part.to("cpu", dtype).contiguous()
            if not bool(torch.isfinite(tensors[stored_name]).all()):
                kind = str(dtype).removeprefix("torch.")
                raise CheckpointError(
                    f"{stored_name} contains NaN, infinity or a number too large for {kind}"
                )
    return tensors


def check_can_save(folder: Path | str, kind: FolderKind = CHECKPOINT) -> None:
    """Refuse a folder to which no checkpoint could be saved, as far as can be told without writing.

    Args:
        folder: Where one is to be saved.
        kind: What is to be saved there, if it is no checkpoint.

    Raises:
        ConflictError: The folder holds something that is not part of one, or is the current one.
        CheckpointError: There is no permission to write beside it.
    """
    folder = real_path(expand_user(folder))
    with saving(folder):
        refuse_replacing(folder, kind)
        nearest = next(parent for parent in folder.parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            what = "not writable" if nearest.is_dir() else "not a folder"
            raise CheckpointError(f"{kind.name} cannot be saved to {folder}: {nearest} is {what}")


def refuse_replacing(folder: Path, kind: FolderKind = CHECKPOINT) -> None:
    """Refuse a folder that must not be replaced.

    Args:
        folder: Its real path.
        kind: What would be put in its place.

    Raises:
        ConflictError: It holds something that is not part of such a folder, or is the current one or above
            that.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConflictError(f"{folder} is a file; {kind.name} is a folder")
    refuse_current_folder(folder)
    remove_leftovers(folder, CONVERTING)  # or a conversion that was killed would block it
    held = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in held if not any(fnmatch(name, known) for known in kind.files)]
    if foreign:
        raise ConflictError(
            f"saving {kind.name} would replace {folder}, which also contains {foreign[0]!r}",
            hint="give a new folder",
        )
    if held and kind.config not in held:
        raise ConflictError(
            f"saving would replace {folder}, which is not empty and not {kind.name}",
            hint="give a new folder",
        )


def refuse_current_folder(folder: Path) -> None:
    """Refuse to replace the folder that this process is in, or one above it.

    Raises:
        ConflictError: `folder`, a real path, is one.
    """
    if holds_current_folder(folder):
        raise ConflictError(
            f"saving would replace {folder}, and the current folder is in it or is this folder",
            hint="give a new folder",
        )


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while writing to `folder` into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error_text(error)
        raise CheckpointError(f"the checkpoint could not be saved to {folder}: {reason}") from error


def _settings(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What ``config.json`` says, the weights' number format included, by each name that it had there."""
    settings, stored = config_settings(config), str(dtype).removeprefix("torch.")
    older = {"torch_dtype": stored} if "torch_dtype" in settings else {}
    return {**settings, "dtype": stored, **older}


def _generation_settings(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    known = tokenizer.end_ids if tokenizer is not None else frozenset()
    ends = list(dict.fromkeys([*config.eos_ids, *sorted(known)]))
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_id,
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
