"""What is asked, checked before a run gets a number.

Main entries: `check_finetune`, `check_score` (`generation_specs` has `check_generate`). Invariant: nothing
here imports torch, loads a model or writes anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conjure.core.home import Home
from conjure.core.text import today
from conjure.errors import UsageError
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import read_records
from conjure.lm.training.request import FinetuneRequest
from conjure.recipes.options import FinetuneOptions, ScoreOptions, refuse_unknown
from conjure.recipes.resource_lookup import data_path

_LAYOUT = ("format", "delimiter", "header", "quoting", "encoding")


def check_finetune(home: Home, data: Sequence[str], model: str, options: FinetuneOptions) -> FinetuneOptions:
    """Refuse what cannot be trained.

    Args:
        home: Where conjure keeps things.
        data: Files, folders and resources.
        model: Model to start from.
        options: What else is asked.

    Returns:
        The options, for conversations with the date that a chat template is given, so that a rerun gives it
        the same.

    Raises:
        ConjureError: A value is out of its bounds, or the data cannot be read.
    """
    refuse_unknown(options, FinetuneOptions)
    if not data:
        raise UsageError("no data was named: name a file, a folder, or - for standard input")
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
    return {**dated, **options}


def check_score(home: Home, files: Sequence[str], models: Sequence[str], options: ScoreOptions) -> None:
    """Refuse what cannot be scored.

    Args:
        home: Where conjure keeps things.
        files: Files, folders and resources; none where a text is scored.
        models: Names of one model, or of two to compare.
        options: What else is asked.

    Raises:
        ConjureError: An option is unknown, or a file cannot be read.
    """
    refuse_unknown(options, ScoreOptions)
    if len(models) not in (1, 2):
        raise UsageError(f"{len(models)} models were named; one is scored, or two are compared")
    if files:
        layout = ReadOptions(**_values(options, _LAYOUT))
        names = [data_path(name, home) for name in files]
        read_records(names, column=options.get("column"), split=options.get("split"), layout=layout)


def _values(options: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The options that were given, of those names if any are named."""
    return {name: value for name, value in options.items() if names is None or name in names}
