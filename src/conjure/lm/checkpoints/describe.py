"""What there is to know about a model without loading it.

Main entries: `describe`, `read_training`. Invariant: only JSON and tensor headers are read, so it takes
milliseconds whatever the model's size, and a model that could not be loaded is described with the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjure.errors import CheckpointError
from conjure.lm.checkpoints.checkpoint_folder import (
    WEIGHT_PATTERNS,
    has_tokenizer,
    read_config,
    read_json_object,
    stored_dtype,
)
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.models.registry import config_settings
from conjure.lm.models.shape import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as `conjure models` shows it.

    Attributes:
        source: Its name and where it is.
        size_bytes: Of the weight files.
        config: Its shape; None where that cannot be told.
        dtype: Number format of the stored weights, such as ``bfloat16``; None likewise.
        has_tokenizer: Whether it knows text, not only ids.
        training: Its ``training.json``: how it came to be; None where it has none.
        problem: Why it cannot be loaded; None where nothing is known against it.
    """

    source: ModelSource
    size_bytes: int
    config: ModelConfig | None
    dtype: str | None
    has_tokenizer: bool
    training: dict[str, Any] | None
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "name": self.source.name,
            "kind": self.source.kind,
            "revision": self.source.revision,
            "folder": str(self.source.folder),
            "parameters": self.config.parameter_count if self.config is not None else None,
            "size_bytes": self.size_bytes,
            "dtype": self.dtype,
            "has_tokenizer": self.has_tokenizer,
            "config": config_settings(self.config) if self.config is not None else None,
            "training": self.training,
            "problem": self.problem,
        }


def describe(source: ModelSource) -> ModelDescription:
    """Describe one model.

    Raises:
        NotFoundError: Its folder is not there.
    """
    config = dtype = problem = None
    try:
        config = read_config(source.folder)
        dtype = stored_dtype(source.folder)
    except CheckpointError as error:
        advice = error.fix or error.hint
        problem = f"{error} (try: {advice})" if advice else str(error)
    return ModelDescription(
        source=source,
        size_bytes=_weights_size_bytes(source.folder),
        config=config,
        dtype=dtype,
        has_tokenizer=has_tokenizer(source.folder),
        training=read_training(source.folder),
        problem=problem,
    )


def _weights_size_bytes(folder: Path) -> int:
    paths = {path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)}
    return sum(path.stat().st_size for path in paths if path.is_file())


def read_training(folder: Path) -> dict[str, Any] | None:
    """How a checkpoint came to be, as the fine-tune wrote it; None where it says nothing.

    The model is as good without it, so a file that is damaged, or another program's, is none.
    """
    try:
        return read_json_object(folder / "training.json")
    except CheckpointError:
        return None
