"""`conjure finetune`, `generate` and `score` as the command of a sweep: a trial is such a run itself.

Main entries: `is_recipe`, `recipe_template`. Invariant: everything about the command is checked with the
values of a trial before the sweep starts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import click

from conjure.cli.configured_defaults import configured_defaults
from conjure.cli.explicit_options import is_typed
from conjure.cli.recorded_run_options import compute_request
from conjure.errors import UsageError, option
from conjure.recipes.options import ONE_MOUNT, ONE_PLACE, SHARED_BY_TRIALS
from conjure.recipes.run_specs import placed
from conjure.runs.schema.argv import fill_in, placeholders
from conjure.runs.schema.spec import RunSpec

_CONJURE = "conjure"
_RECIPES = ("finetune", "generate", "score")
_SPEC_OF = {
    "finetune": ("conjure.cli.language_model.finetune", "checked_spec"),
    "generate": ("conjure.cli.commands.generate", "run_spec"),
    "score": ("conjure.cli.commands.score", "run_spec"),
}
_NEEDS_HOME, _HAS_ENVIRONMENT = "needs conjure's home folder", "has its own environment"
# Options of `conjure run` that say nothing about a run of conjure itself, and why.
_OF_OTHERS = {
    "base": _HAS_ENVIRONMENT,
    "deps_from_env": _HAS_ENVIRONMENT,
    "mount": _HAS_ENVIRONMENT,
    "pip": _HAS_ENVIRONMENT,
    "pip_req": _HAS_ENVIRONMENT,
    "python": _HAS_ENVIRONMENT,
    "image": _HAS_ENVIRONMENT,
    "apt": _HAS_ENVIRONMENT,
    "git_url": _HAS_ENVIRONMENT,
    "git_ref": _HAS_ENVIRONMENT,
    "commit": _HAS_ENVIRONMENT,
    "committed": _HAS_ENVIRONMENT,
    "output": _HAS_ENVIRONMENT,
    "no_output": _HAS_ENVIRONMENT,
    "sandbox": _NEEDS_HOME,
    "network": _NEEDS_HOME,
    "checkpoint": "keeps its own",
    "distributed": "takes that option itself",
    "nodes": "takes that option itself",
}


# Options and arguments of the recipes that are no trial's own, and why.
_NOT_SWEPT = {
    **SHARED_BY_TRIALS,
    **dict.fromkeys(("data", "model", "prompt_file", "compare"), ONE_MOUNT),
    "inputs": "all trials score the same",
    **dict.fromkeys(("label", "project", "description"), "it is the same for all trials"),
    **dict.fromkeys(("cpus", "gpus", "memory", "retry", "on"), ONE_PLACE),
}


# Options of the recipes that say where else than in a run something is to happen.
_OF_NO_TRIAL = ("output", "no_run", "dry_run", "resume", "background", "save_command")


def is_recipe(words: Sequence[str]) -> bool:
    """Whether words are such a command."""
    return len(words) > 1 and words[0] == _CONJURE and words[1] in _RECIPES


def recipe_template(
    words: Sequence[str], trials: Sequence[Mapping[str, str]], given: Mapping[str, Any], run: RunSpec
) -> RunSpec:
    """The run of every trial, with ``:NAME:`` where its values go.

    A parameter without a placeholder fills the option of that name.

    Args:
        words: The command as it was typed.
        trials: Values of parameters to check the command with.
        given: The options of `run_options`.
        run: What they ask for, as the run of any command.

    Raises:
        UsageError: The command cannot be, or takes its values elsewhere than in options.
        ConjureError: Something that it names is not there.
    """
    kind = words[1]
    _refuse_others(given, kind)
    command: click.Command = import_module(f"conjure.cli.commands.{kind}").command
    words = _with_options(command, kind, words, list(trials[0]))
    settings = configured_defaults(kind).get(kind)
    module, function = _SPEC_OF[kind]
    make: Callable[..., RunSpec] = getattr(import_module(module), function)

    def made(params: Mapping[str, str]) -> RunSpec:
        filled = list(fill_in(tuple(words), params))[2:]
        context = command.make_context(kind, filled, default_map=settings)
        _refuse_of_no_trial(context)
        return _placed(make(context, _swept(command, context, words[2:])), context.params, run)

    # A spec holds no trial's values; the one made first has the prompt of standard input, which is read once.
    spec, *_ = [made(params) for params in (*trials[1:], trials[0])]
    if spec.nodes is not None:
        raise UsageError(f"{option('nodes', spec.nodes)} cannot be combined with conjure sweep")
    return replace(
        spec,
        timeout_s=run.timeout_s,
        stop_conditions=run.stop_conditions,
        variables={**spec.variables, **run.variables},
        labels=tuple(dict.fromkeys([*spec.labels, *run.labels])),
        project=run.project if run.project is not None else spec.project,
        description=run.description or spec.description,
        after=run.after,
    )


def _refuse_others(given: Mapping[str, Any], kind: str) -> None:
    context = click.get_current_context()
    for name, why in _OF_OTHERS.items():
        if given[name] and is_typed(context, name):
            raise UsageError(f"{option(name)} cannot be combined with conjure {kind}, which {why}")


def _refuse_of_no_trial(context: click.Context) -> None:
    """Refuse options of the command that no trial can follow: each trial is a run of its own."""
    for name in _OF_NO_TRIAL:
        if name in context.params and is_typed(context, name):
            raise UsageError(f"{option(name)} cannot be given to the command of a sweep: each trial is a run")


def _placed(spec: RunSpec, own: Mapping[str, Any], run: RunSpec) -> RunSpec:
    """Give a run the place and the attempts that its command asks for, or else those that the sweep does."""
    asked = compute_request(own)
    spec = replace(spec, retry=own["retry"] or run.retry, retry_on=run.retry_on)
    return placed(spec, own["on"] or run.on, asked if asked.asks else run.resources)


def _with_options(command: click.Command, kind: str, words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words, with an option for each parameter that has no placeholder in them."""
    filled = []
    for name in names:
        if not any(f":{name}:" in word for word in words):
            flag = _flag(command, name)
            if flag is None:
                raise UsageError(
                    f"conjure {kind} has no option of the name {name!r}, and :{name}: is not in the command",
                    hint=f"conjure {kind} --help",
                )
            filled.append(f"{flag}=:{name}:")
    return [*words[:2], *filled, *words[2:]]


def _flag(command: click.Command, name: str) -> str | None:
    flags = (f"--{name.replace('_', '-')}", f"--{name}")
    options = [one for one in command.params if isinstance(one, click.Option) and not one.is_flag]
    return next((flag for flag in flags for option in options if flag in option.opts), None)


def _swept(command: click.Command, context: click.Context, words: Sequence[str]) -> dict[str, str]:
    """The options whose texts have placeholders in them.

    Raises:
        UsageError: A placeholder is elsewhere.
    """
    raw, _, _ = command.make_parser(context).parse_args(list(words))
    swept: dict[str, str] = {}
    for parameter in command.params:
        name = parameter.name or ""
        texts = _texts(raw.get(name))
        if not placeholders(tuple(texts)):
            continue
        why = _NOT_SWEPT.get(name, "it is given several times" if len(texts) > 1 else None)
        if why is not None:
            where = (
                max(parameter.opts, key=len)
                if isinstance(parameter, click.Option)
                else parameter.human_readable_name
            )
            raise UsageError(
                f"{where} cannot have a placeholder: {why}",
                hint="sweep over other options, or start a sweep for each",
            )
        swept[name] = texts[0]
    return swept


def _texts(value: object) -> list[str]:
    """The texts that click's parser gives; none of a flag and of what was not typed."""
    given = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return [text for text in given if isinstance(text, str)]
