"""The fine-tunes that are compared: where their models are, and what they were trained on.

Main entries: `tuned_models`; and for a single fine-tune, `base_trainings`. Invariant: nothing is loaded here;
of the fine-tunes to compare, one whose data are unknown is refused.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import CheckpointError, ConjureError, NotFoundError, UsageError
from conjure.lm.checkpoints.describe import read_training
from conjure.lm.report.compared_records import Training, TunedModel
from conjure.metric_logging import RUN_VARIABLE
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT, is_resource, resolve_resource
from conjure.recipes.run_specs import MODEL_MOUNT
from conjure.runs.artifacts.mount_sources import locate
from conjure.runs.artifacts.resource_paths import parse
from conjure.runs.database.base import Database
from conjure.runs.lifecycle.open_store import open_store
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
            number_text = name.removeprefix("#")
            resource = f"runs/{number_text}" if number_text.isdecimal() else name
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


def base_trainings(home: Home, model: str | Path) -> tuple[Training, ...]:
    """What the model that a fine-tune starts from was trained on; none where that is not known.

    Args:
        home: Where the runs are.
        model: As the fine-tune names it: where a run has it, the run that this process belongs to.
    """
    number = os.environ.get(RUN_VARIABLE)
    try:
        if not home.database.exists():
            return ()
        with open_store(home) as store:
            if str(model) == MODEL_MOUNT and number is not None:
                source = _source_of_model(store.get(int(number)))
            elif is_resource(home, str(model)):
                source = parse(str(model), store.lookup_link).number
            else:
                return ()
            return _trainings(home, store, source) if source is not None else ()
    except (ConjureError, OSError):
        return ()  # such as in a sandbox, or where files were removed


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
    command = record.spec.filled_command
    data = command[2 : command.index("--model")]
    validation = settings.get("validation")
    training = Training(
        data=tuple(_mounted(home, record, name) for name in data),
        settings=settings,
        validation=_mounted(home, record, validation) if validation is not None else None,
        train_sha256=train_part if isinstance(train_part, str) else None,
    )
    started_from = _source_of_model(record)
    before = _trainings(home, store, started_from) if started_from is not None else ()
    return (*before, training)


def _source_of_model(record: RunRecord) -> int | None:
    """The run that the model of a fine-tune is from."""
    return next((mount.source_run for mount in record.mounts if mount.target == MODEL_MOUNT), None)


def _mounted(home: Home, record: RunRecord, name: str) -> str:
    """Where data that a run was given lie now."""
    sources = {mount.target: mount.source for mount in record.mounts}
    return str(locate(home, sources[name])) if name in sources else name
