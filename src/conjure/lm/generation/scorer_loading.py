"""A model made ready to say how likely a text is: exact, in float32 on the CPU, unless bfloat16 is asked for.

Main entries: `load_scorer`, `load_positions`. Invariant: torch is imported only where the native engine does
not do the work, or where there is so much of it, and torch so much faster, that torch is worth its start.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal

from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource
from conjure.lm.generation.engine_loading import (
    find_model,
    native_engine,
    native_format,
    refuse_without_torch,
)
from conjure.lm.generation.engines.all_logits import PIECE, NativePositions, PositionReader
from conjure.lm.generation.score import PositionScorer, Scorer
from conjure.lm.native import status
from conjure.lm.text.tokenizer import Tokenizer

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LoadedScorer:
    """A model that scores, its tokenizer and its name.

    Attributes:
        scorer: The model.
        tokenizer: Its own.
        source: Where the model was found.
        precision: The number format it computes in.
    """

    scorer: Scorer
    tokenizer: Tokenizer
    source: ModelSource
    precision: Precision

    @property
    def origin(self) -> str:
        """Where the model came from, in words."""
        return str(self.source)


def load_scorer(
    name: str | Path,
    *,
    much: bool,
    precision: Precision = "float32",
    adapter: str | Path | None = None,
    lookups: Iterable[Lookup] = (),
) -> LoadedScorer:
    """Load a model for scoring.

    Args:
        name: As for `conjure.lm.language_model.load`.
        much: Whether there may be more to score than a few texts.
        precision: The number format; torch computes in bfloat16.
        adapter: A PEFT folder whose LoRA weights to merge into the model.
        lookups: Tell the folders of names only the caller knows, such as ``runs/3``.

    Raises:
        NotFoundError: There is no such model here, and it cannot be fetched.
        CheckpointError: Its files are incomplete, damaged or of a refused kind, or it has no tokenizer.
        UsageError: The name cannot be one, or the model needs torch, which is not installed.
    """
    source, _, tokenizer = find_model(name, adapter, lookups)
    if precision == "bfloat16":
        refuse_without_torch(source.folder, precision)
    if precision == "bfloat16" or (much and _torch_is_faster(source.folder)):
        scorer = _with_torch().load_torch_scorer(source.folder, precision)
    else:
        scorer = PositionScorer(load_positions(source.folder))
    return LoadedScorer(scorer, tokenizer, source, precision)


def _torch_is_faster(folder: Path) -> bool:
    """Whether torch is here, and scores a model's texts in float32 faster than the native engine.

    Which it does where the engine is portable C only, and where it does not support the model.
    """
    if find_spec("torch") is None:
        return False
    native = status()
    if native.library is None or native.instructions == "portable":
        return True
    return native_format(read_config(folder), "float32", PIECE, native) is None


def load_positions(folder: Path) -> PositionReader:
    """A model that gives the logits after every token; errors as for `load_scorer`."""
    native = status()
    if native_format(read_config(folder), "float32", PIECE, native) is not None:
        return NativePositions(native_engine(folder, "float32", native)[0])
    refuse_without_torch(folder, "float32")
    return _with_torch().load_torch_positions(folder)


def _with_torch() -> ModuleType:
    # torch takes a second to import.
    from conjure.lm.generation import torch_scorer

    return torch_scorer
