"""A fine-tune as a run.

Main entries: `finetune_spec`, `resumed_spec`. Invariant: `resumed_spec` repeats the earlier run's command
word for word, its params filled in, but for how many processes and nodes there are; only then can training go
on from its state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.recipes.options import FinetuneOptions
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT, resolve_resource
from conjure.recipes.run_specs import InputMounts, conjure_command_spec, with_set_precision
from conjure.runs.artifacts.resource_paths import parse
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import Mount, RunSpec, part_in_words, split_withheld

_BESIDE = (".training", ".adapter")  # of the folders that a fine-tune writes beside the checkpoint
_STATE = f"{CHECKPOINT_OUTPUT}.training"  # as conjure.lm.training.state names it beside the checkpoint
_OUTPUTS = (CHECKPOINT_OUTPUT, *(f"{CHECKPOINT_OUTPUT}{suffix}" for suffix in _BESIDE))
_CHECKPOINTS = tuple(f"/{output}/" for output in (_STATE, *_OUTPUTS))  # of which it needs the first
_RESUME, _DISTRIBUTED, _NODES = "--resume", "--distributed=", "--nodes="


def finetune_spec(
    home: Home,
    data: Sequence[str],
    model: str,
    options: FinetuneOptions,
    *,
    placeholders: Mapping[str, str] | None = None,
    description: str = "",
    labels: Sequence[str] = (),
) -> RunSpec:
    """The run that tunes `model` on `data`.

    Args:
        data: Files, folders and resources.
        model: Name, folder or resource.
        options: What else is asked.
        placeholders: Options whose values are texts with ``:NAME:`` in them, for the run's params.
        description: What the run is for.
        labels: Names to find it by.

    Raises:
        ConjureError: A resource is not there, or cannot be used so.
    """
    inputs = InputMounts(home)
    words = [*(inputs.data(name) for name in data), "--model", inputs.model(model)]
    words += inputs.option_words(with_set_precision(home, options), placeholders)
    spec = conjure_command_spec(
        "finetune",
        words,
        inputs.mounts,
        description=description,
        labels=labels,
        checkpoint=_CHECKPOINTS,
    )
    return replace(spec, distributed=options.get("distributed"), nodes=options.get("nodes"))


def resumed_spec(
    home: Home,
    resource: str,
    *,
    distributed: int | None = None,
    nodes: int | None = None,
    description: str = "",
    labels: Sequence[str] = (),
) -> RunSpec:
    """The run that goes on from the training state that another run left.

    Args:
        resource: The other run.
        distributed: With how many processes on each node; if None, as many as it had, on as many nodes.
        nodes: On how many nodes.
        description: What the run is for; that it goes on from the other one if empty.
        labels: Names to find it by; those of the other run if there are none.

    Raises:
        UsageError: That run was no fine-tune, or has nothing to go on from.
        NotFoundError: There is no such run.
        ConflictError: Not all of what it made was saved.
    """
    with open_store(home) as store:
        number = parse(resource, store.lookup_link).number
        if number is None:
            raise UsageError(f"{resource} is not a run", hint="conjure finetune --resume runs/3")
        record = store.get(number)
    if record.spec.kind != "finetune":
        raise UsageError(f"run {number} is not a fine-tune but `{record.spec.command_text}`")
    _, secret = split_withheld(record.spec.withheld or ())
    if secret:
        raise UsageError(
            f"run {number} has a secret in {part_in_words(secret[0])}, and secrets are not stored;"
            " it cannot be resumed",
            hint="conjure finetune, with the same data and options",
        )
    state = resolve_resource(home, f"runs/{number}")
    if not (state / _STATE).is_dir():
        raise UsageError(
            f"run {number} has no training state: it was not interrupted, or it ended before its first save",
            fix=f"conjure rerun {number}",
        )
    kept = [
        Mount(mount.source, mount.target, mount.read_only)
        for mount in record.mounts
        if mount.target not in _OUTPUTS
    ]
    parts = [Mount(f"runs/{number}/{part}", part) for part in _OUTPUTS if (state / part).is_dir()]
    words = [word for word in record.spec.filled_command[2:] if word != _RESUME]
    if distributed is None:
        distributed = record.spec.distributed
        nodes = nodes if nodes is not None else record.spec.nodes
    words = [word for word in words if not word.startswith((_DISTRIBUTED, _NODES))]
    words += [f"{_DISTRIBUTED}{distributed}"] * (distributed is not None)
    words += [f"{_NODES}{nodes}"] * (nodes is not None)
    return replace(
        conjure_command_spec(
            "finetune",
            [*words, _RESUME],
            [*kept, *parts],
            labels=labels or record.spec.labels,
            checkpoint=_CHECKPOINTS,
        ),
        description=description or f"resumed from run {number}",
        project=record.project,
        distributed=distributed,
        nodes=nodes,
    )


def has_state(checkpoint: Path) -> bool:
    """Whether an unfinished training lies beside a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}{_BESIDE[0]}").is_dir()


def mark_as_outputs(checkpoint: Path) -> None:
    """Make the checkpoint, state and adapter that a resumed run was given count as its own outputs.

    A run's outputs are the files it changed; if nothing better comes, these are still its result.
    """
    for suffix in ("", *_BESIDE):
        for file in checkpoint.with_name(f"{checkpoint.name}{suffix}").glob("*"):
            file.touch()
