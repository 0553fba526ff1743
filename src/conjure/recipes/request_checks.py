"""What is asked, checked before a run gets a number.

Main entries: `check_finetune`, `check_finetune_sweep`, `check_score` (`generation_specs` has
`check_generate`), and of what is run again `changed_model_notes`, `refuse_changed_trials`. Invariant: nothing
here imports torch, loads a model or writes anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from conjure.core.home import Home
from conjure.core.text import today
from conjure.errors import UsageError, option
from conjure.lm.bounds import Bound, ValueFault, bound_faults, refuse_faults
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import read_records
from conjure.lm.training.request import FinetuneRequest
from conjure.recipes.changed_models import changed_models
from conjure.recipes.generation_specs import refuse_needless_date
from conjure.recipes.options import (
    SHARED_BY_TRIALS,
    FinetuneOptions,
    ScoreOptions,
    checked_options,
    parse_options,
    refuse_unknown,
)
from conjure.recipes.resource_lookup import data_path
from conjure.recipes.used_models import UsedModel, used_models
from conjure.runs.schema.record import RunRecord

_LAYOUT = ("format", "delimiter", "header", "quoting", "encoding")
# What does not depend on the model; that sets the largest context.
_WINDOW = {"context": Bound(1, whole=True), "stride": Bound(1, whole=True)}


def check_finetune(home: Home, data: Sequence[str], model: str, options: FinetuneOptions) -> FinetuneOptions:
    """Refuse what cannot be trained.

    Args:
        data: Files, folders and resources.
        model: Model to start from.
        options: What else is asked.

    Returns:
        The options that are given, for conversations with the date that a chat template gets, so that a rerun
        gives it the same.

    Raises:
        ConjureError: A value is out of its bounds, or the data cannot be read.
    """
    options = checked_options(options, FinetuneOptions)
    if not data:
        raise UsageError("no data was given: give a file, a folder, or - for standard input")
    request = FinetuneRequest(data=data, output="output", model=model, **_values(options))
    if "-" in data:
        return options
    dated: FinetuneOptions = {}
    for named in (request.data, [request.validation] if request.validation is not None else []):
        names = [data_path(str(name), home) for name in named]
        if names:
            records = read_records(names, column=request.column, split=request.split, layout=request.layout)
            next(records.pieces())
            if records.chat_formats:
                dated = {"chat_date": today()}
    if not dated:
        request.refuse_chat_settings()
    return {**dated, **options}


def check_finetune_sweep(
    home: Home, data: Sequence[str], model: str, shared: FinetuneOptions, trials: Sequence[Mapping[str, str]]
) -> FinetuneOptions:
    """Refuse a sweep of fine-tunes of which a trial cannot be trained.

    Args:
        data: Files, folders and resources.
        model: Model to start from.
        shared: Options that all trials have.
        trials: Values of trials to check, by option, as texts; of the same options in each.

    Returns:
        The shared options, with what `check_finetune` adds.

    Raises:
        ConjureError: An option cannot be a parameter, a value is out of bounds, or the data cannot be read.
    """
    refuse_unknown(trials[0], FinetuneOptions)
    for name in trials[0]:
        if name in SHARED_BY_TRIALS:
            raise UsageError(
                f"{option(name)} cannot be a parameter: {SHARED_BY_TRIALS[name]}",
                hint="start a sweep for each",
            )
    added: dict[str, Any] = {}
    for trial in trials:
        asked = cast("FinetuneOptions", {**shared, **parse_options(trial, FinetuneOptions)})
        checked = check_finetune(home, data, model, asked)
        added |= {name: value for name, value in checked.items() if name not in asked}
    return cast("FinetuneOptions", {**added, **shared})


def check_score(
    home: Home, files: Sequence[str], models: Sequence[str], options: ScoreOptions
) -> ScoreOptions:
    """Refuse what cannot be scored.

    Args:
        files: Files, folders and resources; none where a text is scored.
        models: Names of one model, or of two to compare.
        options: What else is asked.

    Returns:
        The options that are given, for conversations with the date that a chat template gets, so that a rerun
        gives it the same.

    Raises:
        ConjureError: An option or its value is unknown or out of bounds, or a file cannot be read.
    """
    options = checked_options(options, ScoreOptions)
    if len(models) not in (1, 2):
        raise UsageError(f"{len(models)} models were named; one is scored, or two are compared")
    _refuse_impossible_windows(options)
    if not files or "-" in files:
        return options
    layout = ReadOptions(**_values(options, _LAYOUT))
    names = [data_path(name, home) for name in files]
    records = read_records(names, column=options.get("column"), split=options.get("split"), layout=layout)
    refuse_needless_date(options, are_chats=bool(records.chat_formats))
    dated: ScoreOptions = {"chat_date": today()} if records.chat_formats else {}
    return {**dated, **options}


def _refuse_impossible_windows(options: ScoreOptions) -> None:
    """Refuse a context or stride that no model can have.

    Raises:
        UsageError: There is one.
    """
    given = {name: bound for name, bound in _WINDOW.items() if name in options}
    faults = list(bound_faults(given, options))
    context, stride = options.get("context"), options.get("stride")
    if not faults and context is not None and stride is not None and stride > context:
        faults.append(ValueFault("stride", f"must be from 1 to the context, not {stride}"))
    refuse_faults(faults)


def changed_model_notes(home: Home, record: RunRecord) -> list[str]:
    """What to say before a run is repeated: a sentence for each model that is another one now."""
    return [
        f"This is not the model of run {record.number}: that run used {changed.difference}."
        for changed in changed_models(home, record)
    ]


def refuse_changed_trials(home: Home, sweep: int, trials: Iterable[RunRecord]) -> None:
    """Refuse to add trials to a sweep whose model is another one now.

    Args:
        sweep: Number of the sweep.
        trials: The runs of its trials so far.

    Raises:
        UsageError: It is.
    """
    seen = set[tuple[UsedModel, ...]]()
    for record in trials:
        used = tuple(used_models(home, record))
        if used in seen:
            continue
        if all(each.sha256 is not None for each in used):
            seen.add(used)
        for changed in changed_models(home, record):
            raise UsageError(
                f"sweep {sweep} used {changed.difference}; trials with both could not be compared",
                hint=f"{changed.remedy}, or start the sweep again",
            )


def _values(options: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The options that were given, of those names if any are named."""
    return {name: value for name, value in options.items() if names is None or name in names}
