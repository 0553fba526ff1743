"""Recorded runs whose model is another one now: an upgrade of conjure brought it, or a folder was changed.

Main entries: `changed_models`, `refuse_changed_base`. Invariant: nothing is fetched
and no weights are loaded; where it cannot be told whether a model is the same, nothing is said.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from conjure.core.home import Home
from conjure.errors import ConjureError, UsageError
from conjure.lm.checkpoints.base_model import base_difference, how_to_restore
from conjure.lm.checkpoints.model_resolver import ModelSource, resolve_model
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT, model_lookup
from conjure.recipes.used_models import UsedModel, used_models
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class ChangedModel:
    """A model that is another one than a run used.

    Attributes:
        used: What the run used.
        source: What has its name now.
        difference: Which that was and which this is, in words.
    """

    used: UsedModel
    source: ModelSource
    difference: str

    @property
    def remedy(self) -> str:
        """How to have the one that the run used."""
        return how_to_restore(self.source, self.used.name, self.used.made_by)


def changed_models(home: Home, record: RunRecord) -> Iterator[ChangedModel]:
    """The models of a recorded run that are others now.

    Not looked at: models out of runs and uploads, which stay as they are; models with an adapter, which
    knows its own base; and those of other machines.
    """
    words = record.spec.filled_command
    if record.spec.on is not None or any(word.startswith("--adapter=") for word in words):
        return
    tuned = RunFolder.of(home, record.number).outputs / CHECKPOINT_OUTPUT
    for used in used_models(home, record):
        # Whoever uses a model that is not there is told so then.
        with suppress(ConjureError):
            if used.mounted or (used.sha256 is None and record.spec.kind != "finetune"):
                continue
            source = resolve_model(used.name, lookups=[model_lookup], fetch=False)
            noted = {"name": used.name, "sha256": used.sha256} if used.sha256 is not None else None
            difference = base_difference(source, noted, tuned)
            if difference is not None:
                yield ChangedModel(used, source, difference)


def refuse_changed_base(home: Home, record: RunRecord) -> None:
    """Refuse to resume a fine-tune whose base model is another one now.

    Raises:
        UsageError: It is.
    """
    for changed in changed_models(home, record):
        raise UsageError(
            f"run {record.number} started from {changed.difference}, so it cannot be resumed",
            hint=f"{changed.remedy}, or start again: conjure rerun {record.number}",
        )
