"""Checkpoint folders, as Hugging Face lays them out: read into a model, written from one.

Main entries: `load_checkpoint`, `save_checkpoint`. Only safetensors and JSON are read. Invariant: a folder
being saved holds, at every moment, either what it held before or the whole new checkpoint.

What a checkpoint calls its tensors and how it lays them out is its family's matter
(`conjure.lm.checkpoints.tensor_layout`); it may or may not put a prefix before names, store the tied head
once more, and be split over several files.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from conjure.core.files import replace_folder
from conjure.core.quoting import shell_words
from conjure.errors import CheckpointError, ConflictError
from conjure.lm.checkpoints.layout import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    EMBEDDING,
    HEAD,
    WEIGHTS_FILE,
    has_tokenizer,
    open_tensors,
    read_config,
)
from conjure.lm.checkpoints.safetensors_reader import StoredTensor
from conjure.lm.checkpoints.tensor_layout import assemble, stored_names, stored_shapes, take_apart
from conjure.lm.models.base import CausalLM
from conjure.lm.models.registry import build, config_settings, family_of
from conjure.lm.models.shape import ModelConfig
from conjure.lm.text.tokenizer import Tokenizer

_FAULTS_SHOWN = 3


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
        config = _settle_head(config, tensors)
        model = build(config)
        _check_fit(folder, model, tensors)

        def read(name: str, dtype: torch.dtype) -> Tensor:
            return assemble(config, name, lambda each, turn: tensors[each].read(dtype, transpose=turn))

        yield model, read


def load_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer beside a model's weights; None where there is none.

    Raises:
        CheckpointError: It is damaged, or gives text ids that the model does not have.
    """
    if not has_tokenizer(folder):
        return None
    tokenizer = Tokenizer.from_folder(folder)
    usable = tokenizer.limited_to(config.vocab_size)
    if usable is None:
        raise CheckpointError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size:,} tokens and the model only"
            f" {config.vocab_size:,}: they do not match"
        )
    return usable


def missing_tokenizer(origin: str) -> CheckpointError:
    """What to say where text is wanted of a model that came without a tokenizer."""
    return CheckpointError(
        f"the model {origin} has no tokenizer files, so it cannot read or write text",
        hint="put its tokenizer.json into its folder",
    )


def _settle_head(config: ModelConfig, tensors: dict[str, StoredTensor]) -> ModelConfig:
    """Decide whether the head is tied, as transformers does: by what is stored, where that is telling.

    A stored head equal to the embedding is left out of `tensors`; one that differs is a head of its own,
    whatever the configuration says; one without an embedding beside it is the embedding.
    """
    if not config.tied or not family_of(config).has_head:
        return config
    (head,), (embedding,) = stored_names(config, HEAD), stored_names(config, EMBEDDING)
    if head not in tensors:
        return config
    if embedding not in tensors:
        tensors[embedding] = tensors.pop(head)
    elif tensors[head].same_as(tensors[embedding]):
        del tensors[head]
    else:
        return replace(config, tied=False)
    return config


def _check_fit(folder: Path, model: CausalLM, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse, all at once, what keeps the stored tensors from being this model's."""
    needed = {
        name: shape
        for ours, weight in model.named_parameters()
        for name, shape in stored_shapes(model.config, ours, tuple(weight.shape)).items()
    }
    known = {name: tensor for name, tensor in tensors.items() if name in needed}
    faults = [
        f"tensor {tensor.name} has shape {tensor.shape} and {needed[name]} is needed"
        for name, tensor in known.items()
        if tensor.shape != needed[name]
    ]
    faults += [
        f"tensor {tensor.name} holds {tensor.dtype} numbers, which are not weights"
        for tensor in known.values()
        if not tensor.is_floating_point
    ]
    faults += [f"tensor {name} {needed[name]} is missing" for name in needed if name not in tensors]
    faults += [
        f"tensor {tensor.name} {tensor.shape} is not part of the model"
        for name, tensor in tensors.items()
        if name not in needed
    ]
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        listed = "; ".join(faults[:_FAULTS_SHOWN]) + (f"; and {more} more such errors" if more > 0 else "")
        extra = [name for name in tensors if name not in needed]
        raise CheckpointError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {listed}{_prefix_hint(needed, extra)}",
            fix=_without_head(folder) if len(faults) == len(extra) else None,
        )


def _prefix_hint(needed: Mapping[str, tuple[int, ...]], extra: Sequence[str]) -> str:
    """That names would fit without what is put before them, where that is so."""
    for name in extra:
        whole = next((each for each in needed if name.endswith(f".{each}")), None)
        if whole is not None:
            return f"; the names begin with {name.removesuffix(whole)!r}, and would match without it"
    return ""


def _without_head(folder: Path) -> str:
    """A command that leaves out tensors for other tasks (a classifier, a value head) beside the model."""
    target = folder.resolve().name + "-lm"
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        " [k.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) for k in (M, T)]"
    )
    return shell_words("python", "-c", code, str(folder), target)


def save_checkpoint(
    folder: Path | str,
    model: CausalLM,
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
                raise CheckpointError(f"{stored_name} holds NaN, infinity or a number too large for {kind}")
    return tensors


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConflictError(f"{folder} is a file; a checkpoint is a folder")
    held = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in held if not any(fnmatch(name, known) for known in CHECKPOINT_FILES)]
    if foreign:
        raise ConflictError(
            f"saving a checkpoint would replace {folder}, which also holds {foreign[0]!r}",
            hint="give a new folder",
        )
    if held and CONFIG_FILE not in held:
        raise ConflictError(
            f"saving would replace {folder}, which is not empty and not a checkpoint",
            hint="give a new folder",
        )


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while writing to `folder` into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
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
