"""What `conjure finetune` does: checks what is asked, and trains where no run is to be recorded.

Main entries: `checked_spec`, `refuse_changed_base`, `refuse_unequal_shares`, `train_here`. Invariant: the
checks before a run gets a number do not import torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from conjure.cli.explicit_options import given_options
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.lm.training.request import FinetuneRequest
from conjure.metric_logging import inside_a_run
from conjure.recipes import changed_models
from conjure.recipes.finetune_specs import finetune_spec, has_state, mark_as_outputs
from conjure.recipes.options import FinetuneOptions
from conjure.recipes.request_checks import check_finetune
from conjure.recipes.resource_lookup import data_path, with_data_paths
from conjure.runs.artifacts.resource_paths import parse
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import RunSpec


def checked_spec(context: click.Context, placeholders: Mapping[str, str] | None = None) -> RunSpec:
    """The run of a `conjure finetune` command line, once everything about it is found right.

    Args:
        context: The parsed command line.
        placeholders: Options to fill in later, by name, with the text that stands for them.

    Raises:
        ConjureError: A value is out of its bounds, or the data cannot be read.
    """
    home, given = Home.from_environment(), context.params
    options = cast("FinetuneOptions", given_options(context, FinetuneOptions))
    options = check_finetune(home, given["data"], given["model"], options)
    spec = finetune_spec(
        home,
        given["data"],
        given["model"],
        options,
        placeholders=placeholders,
        description=given["description"],
        labels=given["label"],
    )
    return replace(spec, project=given["project"])


def refuse_changed_base(resource: str) -> None:
    """Refuse to resume a run whose base model is another one now, before the new run gets a number.

    Raises:
        UsageError: It is.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        number = parse(resource, store.lookup_link).number
        record = store.get(number) if number is not None else None
    if record is not None:
        changed_models.refuse_changed_base(home, record)


def refuse_unequal_shares(spec: RunSpec) -> None:
    """Refuse a number of processes that cannot share the steps of the fine-tune to resume.

    Raises:
        UsageError: They cannot.
    """
    given = [word.removeprefix("--").partition("=") for word in spec.command if word.startswith("--")]
    asked = {name.replace("-", "_"): int(value) for name, _, value in given if value.isdecimal()}
    sizes: dict[str, Any] = {
        name: asked[name] for name in ("batch_size", "grad_accumulation") if name in asked
    }
    FinetuneRequest(data=["-"], output="output", distributed=spec.distributed, nodes=spec.nodes, **sizes)


def train_here(data: tuple[str, ...], settings: dict[str, Any], *, dry_run: bool, as_json: bool) -> int:
    """Train in this process, or only show the plan; the exit status.

    Args:
        data: Files, folders and resources.
        settings: The options, by the names of the fields of `FinetuneRequest`.
        dry_run: Show the plan, and do nothing else.
        as_json: Print JSON.
    """
    names = tuple(data_path(name) for name in data)
    request = _request(names, with_data_paths(settings))
    if request.resume and inside_a_run():
        mark_as_outputs(Path(request.output))
    elif inside_a_run() and has_state(Path(request.output)):  # which the run's attempt before this one left
        request = replace(request, resume=True)
    # Imports torch, which a recorded fine-tune needs only in its run.
    from conjure.cli.language_model import training

    if dry_run:
        return training.show_plan(request, as_json=as_json)
    return training.train(request, as_json=as_json)


def _request(data: tuple[str, ...], settings: dict[str, Any]) -> FinetuneRequest:
    if not data:
        raise UsageError("no data was given: give a file, a folder, or - for standard input")
    output = settings["output"] if settings["output"] is not None else "output"
    given = {**settings, "data": data, "output": output, "resume": settings["resume"] is not None}
    return FinetuneRequest(**given)
