"""What `conjure finetune` does: checks what is asked, and trains where no run is to be recorded.

Main entries: `check`, `train_here`. Invariant: the check before a run gets a number does not import torch.
"""

from pathlib import Path
from typing import Any

from conjure.errors import UsageError
from conjure.lm.text.records import read_records
from conjure.lm.training.request import FinetuneRequest
from conjure.recipes.finetune_specs import claim
from conjure.recipes.resource_lookup import data_path
from conjure.reporting import inside_a_run


def check(data: tuple[str, ...], settings: dict[str, Any]) -> None:
    """Refuse what cannot be trained.

    Raises:
        ConjureError: A value is out of its bounds, or the data cannot be read.
    """
    request = _request(data, settings)
    if "-" not in data:
        _check_data(request)


def train_here(data: tuple[str, ...], settings: dict[str, Any], *, dry_run: bool, as_json: bool) -> int:
    """Train in this process, or only show the plan; the exit status.

    Args:
        data: Files, folders and resources.
        settings: The options, by the names of the fields of `FinetuneRequest`.
        dry_run: Show the plan, and do nothing else.
        as_json: Print JSON.
    """
    names = tuple(data_path(name) for name in data)
    if settings["validation"] is not None:
        settings = {**settings, "validation": data_path(settings["validation"])}
    request = _request(names, settings)
    if request.resume and inside_a_run():
        claim(Path(request.output))
    # Imports torch, which a recorded fine-tune needs only in its run.
    from conjure.cli.language_model import training

    if dry_run:
        return training.show_plan(request, as_json=as_json)
    return training.train(request, as_json=as_json)


def _check_data(request: FinetuneRequest) -> None:
    """Refuse data that cannot be read, or of which the first record cannot be found."""
    for data in (request.data, [request.validation] if request.validation is not None else []):
        names = [data_path(str(name)) for name in data]
        if names:
            records = read_records(names, column=request.column, split=request.split, layout=request.layout)
            next(records.pieces())


def _request(data: tuple[str, ...], settings: dict[str, Any]) -> FinetuneRequest:
    if not data:
        raise UsageError("no data was named: name a file, a folder, or - for standard input")
    output = settings["output"] if settings["output"] is not None else "output"
    given = {**settings, "data": data, "output": output, "resume": settings["resume"] is not None}
    return FinetuneRequest(**given)
