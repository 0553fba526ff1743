"""The fine-tunes that are compared: where their models are, and what they were trained on.

Main entry: `tuned_models`. Invariant: nothing is loaded here; a fine-tune whose data are unknown is refused.
"""

from collections.abc import Sequence
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import CheckpointError, NotFoundError, UsageError
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.report.compared_records import Training, TunedModel
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT, is_resource, resolve_resource
from conjure.recipes.run_specs import MODEL_MOUNT
from conjure.runs.artifacts.mount_sources import locate
from conjure.runs.artifacts.resource_paths import parse
from conjure.runs.database.base import Database
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.schema.record import RunRecord

_TRAINING_FILE = "training.json"


def tuned_models(home: Home, names: Sequence[str]) -> list[TunedModel]:
    """The fine-tunes of some runs, each with the data it was trained on.

    Args:
        home: Where the runs are.
        names: Numbers or resources.

    Raises:
        UsageError: One is no run, or no fine-tune, or is named twice.
        NotFoundError: One is not there, or has no tuned model; or its data are no longer there.
        CheckpointError: What one was trained on can no longer be read.
    """
    models: list[TunedModel] = []
    with open_store(home) as store:
        for name in names:
            resource = f"runs/{name}" if name.isdecimal() else name
            number = parse(resource, store.lookup_link).number if is_resource(home, resource) else None
            if number is None:
                raise UsageError(
                    f"{name} is not a run; only recorded fine-tunes can be compared",
                    hint="name runs, as in `conjure report 3 5`",
                )
            if number in [model.run for model in models]:
                raise UsageError(f"run {number} is named twice")
            folder = _checkpoint(home, number)
            models.append(TunedModel(run=number, folder=folder, trainings=_trainings(home, store, number)))
    return models


def _checkpoint(home: Home, number: int) -> Path:
    folder = resolve_resource(home, f"runs/{number}") / CHECKPOINT_OUTPUT
    if not (folder / _TRAINING_FILE).is_file():
        raise NotFoundError(f"run {number} has no tuned model", fix="conjure ps -a")
    return folder


def _trainings(home: Home, store: Database, number: int) -> tuple[Training, ...]:
    """What a run's model was trained on, what it started from first."""
    record = store.get(number)
    if record.spec.kind != "finetune":
        raise UsageError(f"run {number} is not a fine-tune; its command is `{record.spec.command_text}`")
    facts = read_training(_checkpoint(home, number)) or {}
    settings, train_part = facts.get("settings"), facts.get("train_sha256")
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"run {number} cannot be compared: {CHECKPOINT_OUTPUT}/{_TRAINING_FILE}, which says what it was"
            " trained on, is damaged",
            fix=f"conjure verify {number}",
        )
    command = record.spec.command
    data = command[2 : command.index("--model")]
    validation = settings.get("validation")
    training = Training(
        data=tuple(_mounted(home, record, name) for name in data),
        settings=settings,
        validation=_mounted(home, record, validation) if validation is not None else None,
        train_sha256=train_part if isinstance(train_part, str) else None,
    )
    started_from = [mount.source_run for mount in record.mounts if mount.target == MODEL_MOUNT]
    before = _trainings(home, store, started_from[0]) if started_from and started_from[0] is not None else ()
    return (*before, training)


def _mounted(home: Home, record: RunRecord, name: str) -> str:
    """Where data that a run was given lie now."""
    sources = {mount.target: mount.source for mount in record.mounts}
    return str(locate(home, sources[name])) if name in sources else name
