"""The model that a training started from: what is noted of it, and whether the one here now is the same.

Main entries: `base_facts`, `base_difference`. Invariant: nothing here loads weights; two models that are the
same are never told apart, and where nothing was noted only shape and tokenizer tell two of them apart.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conjure.errors import CheckpointError, NotFoundError
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.checkpoint_weights import load_tokenizer
from conjure.lm.checkpoints.model_resolver import COMES_WITH_CONJURE, ModelSource
from conjure.lm.checkpoints.weights_digest import SHORT
from conjure.lm.models.shape import ModelConfig


def base_facts(source: ModelSource) -> dict[str, Any]:
    """What is noted of a model: enough to find it again, and to tell that it is the same.

    Raises:
        CheckpointError: Its weights cannot be read.
    """
    return {
        "name": source.name,
        "kind": source.kind,
        "revision": source.revision,
        "sha256": source.sha256,
    }


def base_difference(
    source: ModelSource, noted: Mapping[str, Any] | None, tuned: Path | None = None
) -> str | None:
    """Which model a training started from, and which this is, in words; None where they may be the same.

    Args:
        source: The model that has the name now.
        noted: What `base_facts` said when the training started; None where an older conjure noted nothing.
        tuned: The checkpoint that came of it, which tells of the base's shape and tokenizer then.

    Raises:
        CheckpointError: The weights of `source` cannot be read.
    """
    then = noted.get("sha256") if noted is not None else None
    if noted is not None and isinstance(then, str):
        return different_weights(str(noted.get("name")), then, source)
    other = _other_part(source.folder, tuned) if tuned is not None else None
    return f"a model with another {other} than {source.name} {source.sha256[:SHORT]} has" if other else None


def different_weights(name: str, sha256: str, source: ModelSource) -> str | None:
    """The same of a model of which name and digest are known."""
    if sha256 == source.sha256:
        return None
    return f"{name} {sha256[:SHORT]}, but this is {source.name} {source.sha256[:SHORT]}"


def how_to_restore(source: ModelSource, name: str, made_by: str | None) -> str:
    """What brings back the model that a training started from.

    Args:
        source: The model that is here.
        name: Of the other one.
        made_by: The version of conjure that trained, where that is known.
    """
    if source.kind not in COMES_WITH_CONJURE or source.name != name:
        return "use that model"
    known = made_by is not None and made_by != version("conjure")
    return f"install conjure {made_by}" if known else "install the version of conjure that it came with"


def _other_part(base: Path, tuned: Path) -> str | None:
    """What differs of that which training does not change; None where nothing does, or one is not there."""
    try:
        was, now = read_config(tuned), read_config(base)
        if _shape(was) != _shape(now):
            return "shape"
        before, after = load_tokenizer(tuned, was), load_tokenizer(base, now)
    except (CheckpointError, NotFoundError):
        return None
    same = before is None or after is None or before.digest == after.digest
    return None if same else "tokenizer"


def _shape(config: ModelConfig) -> tuple[object, ...]:
    """What decides which weights there are, of a model of any architecture."""
    sizes = (config.vocab_size, config.context_length, config.n_embd, config.n_layer)
    return (config.family, *sizes, config.parameter_count)
