"""A training run's state on disk, from which it goes on.

Main entries: `save_training_state`, `load_training_state`, `remove_training_state`. The folder holds
safetensors and JSON only, and lies beside the checkpoint, never in it. Invariant: it is replaced whole, so a
crash leaves the state before or after.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from conjure.core.files import replace_folder, restore_folder
from conjure.core.text import error_text
from conjure.errors import CheckpointError, option
from conjure.lm.models.registry import registered
from conjure.lm.training.trainer import Progress, TrainingState

_KIND = re.compile(r"master\.|optimizer\.\d+\.\w+\.")  # what is said of a weight, before its name
_TENSORS = "state.safetensors"
_PROGRESS = "progress.json"


def state_folder(output: Path) -> Path:
    """Where the state of the training that writes `output` lies."""
    return output.parent / f"{output.name}.training"


def _current_name(name: str) -> str:
    """The name of a tensor in a state; before 0.2 it was that of a GPT-2 checkpoint."""
    kind = _KIND.match(name)
    ours = registered("gpt2").ours(name[kind.end() :]) if kind else None
    return f"{kind[0]}{ours}" if kind and ours else name


def save_training_state(folder: Path, state: TrainingState, facts: Mapping[str, Any]) -> None:
    """Write a state, in place of the one that is there.

    Args:
        folder: Where to.
        state: What to save.
        facts: What a later run must agree with to go on from it, and the history so far; JSON values.

    Raises:
        CheckpointError: It cannot be written (disk full, no permission); an older state is untouched.
    """
    progress = {name: value for name, value in asdict(state.progress).items() if value != math.inf}
    try:
        with replace_folder(folder) as fresh:
            save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, fresh / _TENSORS)
            (fresh / _PROGRESS).write_text(json.dumps({"progress": progress, **facts}))
    except (OSError, SafetensorError) as error:
        reason = error_text(error)
        raise CheckpointError(f"the training state could not be saved to {folder}: {reason}") from error


def remove_training_state(folder: Path) -> None:
    """Remove a state, once its training needs it no more."""
    shutil.rmtree(folder, ignore_errors=True)


def load_training_facts(folder: Path) -> dict[str, Any]:
    """The `facts` of a saved state, without its tensors.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    restore_folder(folder)
    try:
        return json.loads((folder / _PROGRESS).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no unfinished training in {folder}", hint=f"omit {option('resume')} to start again"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the training state in {folder} is damaged: {error_text(error)}") from error


def saved_micro_batch(folder: Path) -> int | None:
    """Blocks per forward pass of the training that a state is of, if it says so.

    Raises:
        CheckpointError: There is no state, or it is damaged.
    """
    return load_training_facts(folder).get("micro_batch")


def load_training_state(folder: Path) -> TrainingState:
    """The state that was saved in `folder`.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    facts = load_training_facts(folder)
    try:
        with safe_open(folder / _TENSORS, "pt") as file:
            tensors = {
                _current_name(name): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 (not a mapping)
            }
        return TrainingState(Progress(**facts["progress"]), tensors)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"the training state in {folder} is damaged: {error_text(error)}") from error
