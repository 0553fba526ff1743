"""The command of a recorded run as a file: the options and arguments it was asked for with.

Main entry: `values_of_run`. Invariant: nothing secret is among them; a secret variable stands there by its
name alone.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import click

from conjure.cli.saved_commands.files import Value, key_of, saved_parameters
from conjure.errors import UsageError
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import INTERRUPTED, Mount, RunSpec, part_in_words, split_withheld

RUN = "run"
_RECORDED = ("finetune", "generate")  # commands of our own that can be read from a file
_RESUME = "--resume"
_KINDS = {"command": RUN, **{kind: kind for kind in _RECORDED}}


def values_of_run(record: RunRecord) -> tuple[str, dict[str, Value]]:
    """The verb of a run, and its options and arguments by their keys.

    Raises:
        UsageError: The run cannot be asked for by a file.
    """
    spec = record.spec
    verb = _KINDS.get(spec.kind)
    if verb is None:
        raise UsageError(
            f"run {record.number} is a `conjure {spec.kind}`; only run, finetune and generate can be saved"
        )
    _, others = split_withheld(spec.withheld or ())
    if others:
        raise UsageError(
            f"run {record.number} has a secret in {part_in_words(others[0])}, and secrets are not stored"
        )
    if _RESUME in spec.filled_command and verb == "finetune":
        raise UsageError(
            f"run {record.number} was started with --resume, which cannot be saved to a file",
            fix=f"conjure rerun {record.number}",
        )
    found = _run_values(record) if verb == RUN else _own_values(spec, verb)
    is_default = verb != RUN and spec.description.startswith("conjure ")  # its version
    values = {
        **found,
        "description": "" if is_default else spec.description,
        "label": spec.labels,
        "project": spec.project,
        "retry": spec.retry,
        "on": spec.on,
        "cpus": spec.resources.cpus,
        "gpus": spec.resources.gpus,
        "memory": None if spec.resources.memory_bytes is None else f"{spec.resources.memory_bytes}B",
    }
    order = [key_of(parameter) for parameter in saved_parameters(_command(verb))]
    chosen = {key: value for key, value in values.items() if value not in (None, (), "", False)}
    return verb, {key: chosen[key] for key in order if key in chosen}


def _run_values(record: RunRecord) -> dict[str, Any]:
    spec, environment, code = record.spec, record.spec.environment, record.spec.code
    hidden, _ = split_withheld(spec.withheld or ())
    taken = record.code
    exact = None if taken is None or taken.dirty else taken.commit
    return {
        "command": spec.command[0] if len(spec.command) == 1 else spec.command,
        "mount": tuple(map(_mount, spec.mounts)),
        "pip": (*environment.pip, *_requirements(record.number, environment.requirements)),
        "python": environment.python,
        "base": None if environment.base == "current" else environment.base,
        "image": environment.image,
        "apt": environment.apt,
        "env": tuple(name if name in hidden else f"{name}={value}" for name, value in spec.variables.items()),
        "git-url": code.git_url,
        "git-ref": exact if code.git_url else None,
        "commit": None if code.git_url else exact,
        "param": tuple(f"{name}={value}" for name, value in spec.params.items()),
        "timeout": None if spec.timeout_s is None else _duration(spec.timeout_s),
        "stop-condition": spec.stop_conditions,
        "retry-on": None if spec.retry_on == INTERRUPTED else spec.retry_on,
        "checkpoint": spec.checkpoint,
        "output": spec.output,
        "no-output": spec.no_output,
        "idempotent": spec.idempotent,
        "sandbox": spec.sandbox,
        "network": spec.network,
        "distributed": spec.distributed,
        "nodes": spec.nodes,
    }


def _duration(seconds: float) -> str:
    """Seconds as `parse_duration` reads them, which knows no exponents."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def _mount(mount: Mount) -> str:
    parts = [mount.resource, mount.target, *(["ro"] if mount.read_only else [])]
    return ":".join(part.replace(":", "\\:") for part in parts)


def _requirements(number: int, text: str | None) -> Iterator[str]:
    """The packages of requirements files, whose names are not recorded."""
    for line in (text or "").splitlines():
        requirement = line.partition(" #")[0].strip()
        if requirement.startswith("-"):
            raise UsageError(
                f"run {number} had the line {requirement!r} in a requirements file, which cannot be saved",
                hint="save the `conjure run` command with --pip-req instead",
            )
        if requirement and not requirement.startswith("#"):
            yield requirement


def _own_values(spec: RunSpec, verb: str) -> dict[str, Any]:
    """The options of one of our own commands; inputs by the names they were given from."""
    words = list(spec.filled_command[2:])
    if verb == "generate":  # its samples, which --save asks for
        place = words.index("--output")
        del words[place : place + 2]
    command = _command(verb)
    typed, _, _ = command.make_parser(click.Context(command, info_name=verb)).parse_args(args=words)
    inputs = {mount.target: mount.resource for mount in spec.mounts}
    inputs |= {f"./{target}": resource for target, resource in inputs.items()}
    values: dict[str, Any] = {"save": True} if verb == "generate" else {}
    for parameter in saved_parameters(command):
        value = typed.get(parameter.name or "")
        if isinstance(value, str | list | tuple | bool):
            values.setdefault(key_of(parameter), _from_inputs(value, inputs))
    return values


def _from_inputs(value: str | Sequence[str] | bool, inputs: dict[str, str]) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return inputs.get(value, value)
    return tuple(inputs.get(word, word) for word in value)


def _command(verb: str) -> click.Command:
    return import_module(f"conjure.cli.commands.{verb}").command
