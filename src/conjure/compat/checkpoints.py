"""The folders a fine-tune of 2019 left behind: ``checkpoint-<step>`` beside the final model.

Main entries: `save`, `prune`, `evaluated_folders`. Invariant: a folder with a ``config.json`` holds a whole
model, whatever moment a crash chose.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjure.core.files import sync_folder
from conjure.errors import NotFoundError
from conjure.lm.checkpoints.checkpoint_folder import CONFIG_FILE, WEIGHTS_FILE
from conjure.lm.checkpoints.pretrained import save_checkpoint, saving
from conjure.lm.models.base import CausalLM
from conjure.lm.text.tokenizer import Tokenizer

_STAGING = ".saving"
_NUMBERED = re.compile(r"checkpoint-(\d+)")


def step_folder(output: Path, step: int) -> Path:
    """Where the checkpoint of a step goes."""
    return output / f"checkpoint-{step}"


def save(folder: Path, model: CausalLM, tokenizer: Tokenizer, training: Mapping[str, Any]) -> None:
    """Write a checkpoint; files that a folder holds beside it stay.

    Args:
        folder: Where to.
        model: Its weights.
        tokenizer: Its tokenizer: every checkpoint can be used by itself.
        training: How it came to be, for ``training.json``.

    Raises:
        CheckpointError: It cannot be written (disk full, no permission).
    """
    if not folder.exists():
        save_checkpoint(folder, model, tokenizer, training=training)
        return
    staging = folder / _STAGING
    with saving(folder):
        shutil.rmtree(staging, ignore_errors=True)  # of a save that was cut off
        save_checkpoint(staging, model, tokenizer, training=training)
        # Without its config.json the folder is no model, until it is again.
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG_FILE):
            path.replace(folder / path.name)
        staging.rmdir()
        sync_folder(folder)


def prune(output: Path, limit: int | None) -> None:
    """Remove the oldest ``checkpoint-<step>`` folders until `limit` are left; None, 0 or less keeps all."""
    if limit is None or limit <= 0:
        return
    numbered = [folder for folder in output.iterdir() if _NUMBERED.fullmatch(folder.name)]
    # By age, not by number: those of an earlier training go before those of this one.
    for folder in sorted(numbered, key=lambda folder: folder.stat().st_mtime_ns)[:-limit]:
        shutil.rmtree(folder, ignore_errors=True)


def evaluated_folders(output: Path, *, all_checkpoints: bool) -> list[Path]:
    """The model folders to evaluate: `output`, or everything with weights in and below it, sorted by path.

    Raises:
        NotFoundError: There is no model.
    """
    if all_checkpoints:
        folders = [path.parent for path in sorted(output.rglob(WEIGHTS_FILE)) if _STAGING not in path.parts]
    else:
        folders = [output] if (output / CONFIG_FILE).exists() else []
    if not folders:
        raise NotFoundError(
            f"--output_dir {output} contains no model to evaluate",
            hint="--do_train makes one; to evaluate another model, give its folder as --output_dir",
        )
    return folders


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint folder's name; None for another folder."""
    match = _NUMBERED.fullmatch(folder.name)
    return int(match[1]) if match else None
