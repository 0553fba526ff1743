"""`conjure sweep`: a command with many values of its parameters, and which are best."""

import csv
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import click

from conjure.cli.explicit_options import given_options
from conjure.cli.render import interrupt_detaches, note, write_json
from conjure.cli.run_number_type import WholeNumber
from conjure.cli.run_options import run_options, run_spec
from conjure.cli.saved_commands.options import SavableCommand, save_command, saved_command_options
from conjure.cli.sweeps.following import follow_sweep
from conjure.cli.sweeps.language_model_trials import is_recipe, recipe_template
from conjure.cli.sweeps.view import show_plots, show_sweep
from conjure.cli.tables import Cell, Column, show_table
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.units import format_number
from conjure.errors import NotFoundError, UsageError
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.spec import RunSpec
from conjure.sweeps.control import going_on, require_packages, resume_sweep, start_sweep, stop_sweep
from conjure.sweeps.proposals import propose
from conjure.sweeps.request import SEED_PARAMETER, SweepRequest
from conjure.sweeps.space import Domain, checked_trials, parse_parameter
from conjure.sweeps.sweep import SweepOptions, request_of
from conjure.sweeps.view import SweepView, look_at_sweep

_ALIASES = {"bayesian": "tpe"}
_ASK_FIRST = 10  # trials that tpe draws before it has anything to go by
_EXAMPLE = "sweep grid --param x=1,2 -- echo :x:"
_STATE_COLOURS = {"complete": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}


class _Group(click.Group):
    """A group whose commands have other names too."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


_sweep_number = click.argument("number", type=WholeNumber(least=1))


@click.group("sweep", cls=_Group)
def command() -> None:
    """Run a command with many values of its parameters, and rank the results.

    :NAME: in COMMAND is replaced by a value of --param NAME. Trials are ordinary runs.
    """


def _without_settings(
    context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Leave out what is set for runs where trials are fine-tunes or the like: outside a sweep it is, too."""
    if is_recipe(words):
        context.default_map = None
    return words


def _sweep_options(make: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `grid`, `random` and `tpe`, and those of `conjure run`."""
    options = (
        click.option(
            "--param",
            "parameters",
            multiple=True,
            metavar="NAME=VALUES",
            help="Values to try: a,b,c or MIN:MAX[:linear|log][:int|float].",
        ),
        click.option("--metric", metavar="NAME", help="Metric to rank the trials by."),
        click.option("--minimize", "direction", flag_value="minimize", help="Lower values are better."),
        click.option("--maximize", "direction", flag_value="maximize", help="Higher values are better."),
        click.option(
            "--metric-agg",
            "aggregation",
            type=click.Choice(["last", "min", "max", "mean"]),
            default="last",
            show_default=True,
            help="Which of the metric's values counts.",
        ),
        click.option(
            "-j",
            "--parallel",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Maximum number of trials at a time.",
        ),
        click.option(
            "--seeds",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Run each trial with N seeds.",
        ),
        click.option(
            "--prune",
            type=click.Choice(["median", "asha"]),
            help="Stop trials early that do worse than others.",
        ),
        click.option("--time-limit", metavar="2h", help="Stop the sweep after this time."),
        click.option("--dry-run", is_flag=True, help="Print the commands and exit."),
        click.option("-b", "--background", is_flag=True, help="Start the sweep and return at once."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end."),
        run_options,
        saved_command_options,
        click.argument(
            "command",
            nargs=-1,
            type=click.UNPROCESSED,
            metavar="COMMAND...",
            is_eager=True,  # before the options that settings give values to
            callback=_without_settings,
        ),
    )
    for option in reversed(options):
        make = option(make)
    return make


_drawn_options = (
    click.option("-n", "--trials", "trials", type=int, required=True, metavar="N", help="Number of trials."),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
)


def _method(name: str) -> Callable[..., Any]:
    return command.command(
        name,
        cls=SavableCommand,
        context_settings={"allow_interspersed_args": False},
        options_metavar="[OPTIONS] [--]",
    )


@_method("grid")
@_sweep_options
def grid(**options: Any) -> int:
    """Try all combinations of the values."""
    return _start("grid", options)


@_method("random")
@_drawn_options[0]
@_drawn_options[1]
@_sweep_options
def random(**options: Any) -> int:
    """Try random values."""
    return _start("random", options)


@_method("tpe")
@_drawn_options[0]
@_drawn_options[1]
@_sweep_options
def tpe(**options: Any) -> int:
    """Try values like those that did well (tree-structured Parzen estimator).

    Needs Optuna, from the extra `sweeps`. Also called bayesian.
    """
    return _start("tpe", options)


def _start(method: str, options: dict[str, Any]) -> int:
    home = Home.from_environment()
    request = _request(home, method, options)
    if options["save_command"] is not None:
        context, withheld = click.get_current_context(), request.spec.stored().withheld
        return save_command(context, options["save_command"], withheld or ())
    if options["dry_run"]:
        require_packages(request)
        _show_commands(request, as_json=options["as_json"])
        return 0
    number = start_sweep(home, request)
    if not options["as_json"]:
        note(f"Sweep {number}: {request.trial_count} trials, {request.parallel} at a time")
    return follow_sweep(home, number, background=options["background"], as_json=options["as_json"])


def _request(home: Home, method: str, options: dict[str, Any]) -> SweepRequest:
    space = _space(options["parameters"])
    given = given_options(click.get_current_context(), SweepOptions)
    return request_of(_spec(home, space, options), space, cast("SweepOptions", {**given, "method": method}))


def _space(texts: Iterable[str]) -> dict[str, Domain]:
    space: dict[str, Domain] = {}
    for name, domain in map(parse_parameter, texts):
        if name in space:
            raise UsageError(f"--param {name} is given twice")
        space[name] = domain
    return space


def _spec(home: Home, space: Mapping[str, Domain], options: dict[str, Any]) -> RunSpec:
    words = options["command"]
    if not words or not words[0].strip():  # any run's command is checked, but told as in `conjure run`
        raise UsageError(f"the command is empty: write it after the options, as in `conjure {_EXAMPLE}`")
    if not is_recipe(words):
        return run_spec(home, options, {})
    run = run_spec(home, {**options, "command": ("conjure",)}, {})
    seeded = {SEED_PARAMETER: "1"} if options["seeds"] > 1 else {}
    return recipe_template(words, checked_trials(space, seeded), options, run)


def _show_commands(request: SweepRequest, *, as_json: bool) -> None:
    asked = request.trial_count if request.method != "tpe" else min(request.trial_count, _ASK_FIRST)
    trials = (propose(request, trial) for trial in range(asked))
    if as_json:
        shown = [{"params": params, "command": request.command_of(params)} for params in trials]
        write_json({"trial_count": request.trial_count, "trials": shown})
        return
    for params in trials:
        click.echo(request.command_of(params))
    if asked < request.trial_count:
        note(f"{request.trial_count - asked} more trials follow, chosen by the results of these")


@command.command("show")
@_sweep_number
@click.option("--plot", is_flag=True, help="Plot the metric against each parameter.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(number: int, *, plot: bool, as_json: bool) -> None:
    """Show the trials of sweep NUMBER, best first."""
    view = _view(number)
    if as_json:
        write_json(view.to_dict())
    elif plot:
        show_plots(view)
    else:
        show_sweep(view)


def _view(number: int) -> SweepView:
    home = Home.from_environment()
    with open_store(home) as store:
        return look_at_sweep(home, store, number)


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
def ls(*, as_json: bool) -> None:
    """List sweeps, newest first."""
    home = Home.from_environment()
    with open_store(home) as store:
        views = [look_at_sweep(home, store, row.number) for row in store.sweeps()]
    if as_json:
        write_json([view.listed() for view in views])
        return
    if not views:
        note(f"No sweeps yet; start one: {with_home(f'conjure {_EXAMPLE}')}")
        return
    columns = [
        Column("SWEEP", right=True),
        Column("STATE"),
        Column("METHOD"),
        Column("TRIALS", right=True),
        Column("METRIC"),
        Column("BEST", right=True),
        Column("COMMAND", shrinks=True),
    ]
    show_table(columns, map(_listed_row, views))


def _listed_row(view: SweepView) -> list[str | Cell]:
    best, state = view.best, str(view.row.state)
    return [
        str(view.row.number),
        Cell("no driver" if view.is_abandoned else state, _STATE_COLOURS[state]),
        view.request.method,
        f"{view.ended}/{view.row.trials}",
        view.request.metric or "",
        "" if best is None or best.value is None else format_number(best.value),
        view.request.spec.stored().command_text,
    ]


@command.command("stop")
@_sweep_number
def stop(number: int) -> None:
    """Stop sweep NUMBER and its trials; their outputs are saved."""
    home = Home.from_environment()
    with interrupt_detaches(lambda: _stopped_so_far(home, number)):
        row, stopped = stop_sweep(home, number)
    click.echo(f"Sweep {number}: {row.state}, {stopped} of its trials stopped")


def _stopped_so_far(home: Home, number: int) -> list[str]:
    with open_store(home) as store:
        row, active = store.sweep(number), going_on(store, number)
    again = with_home(f"conjure sweep stop {number}")
    runs = f"runs that have not ended: {', '.join(map(str, active))}" if active else "no run of it is active"
    return [f"Sweep {number}: {row.state}; {runs}", *[f"To wait for them: {again}"] * bool(active)]


@command.command("resume")
@_sweep_number
@click.option("--retry-failed", is_flag=True, help="Also run the failed trials again.")
@click.option("-n", "--more", type=WholeNumber(least=1), default=None, metavar="N", help="Add N trials.")
@click.option("-b", "--background", is_flag=True, help="Resume the sweep and return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def resume(number: int, *, retry_failed: bool, more: int | None, background: bool, as_json: bool) -> int:
    """Continue sweep NUMBER with the same proposals; stopped and interrupted trials run again."""
    home = Home.from_environment()
    resume_sweep(home, number, retry_failed=retry_failed, more=more or 0)
    return follow_sweep(home, number, background=background, as_json=as_json)


@command.command("best")
@_sweep_number
@click.option("--command", "as_command", is_flag=True, help="Print the command with the best values.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def best(number: int, *, as_command: bool, as_json: bool) -> None:
    """Show the best values of sweep NUMBER so far."""
    view = _view(number)
    found = view.best
    if found is None or found.value is None:
        why = "has no metric" if view.request.metric is None else "has no finished trial with a value"
        raise NotFoundError(f"sweep {number} {why}", fix=f"conjure sweep show {number}")
    if as_json:
        write_json(view.to_dict()["best"])
    elif as_command:
        click.echo(view.request.command_of(found.trials[0].params))
    else:
        runs = ", ".join(str(trial.run) for trial in found.trials)
        click.echo(f"{view.request.metric} {format_number(found.value)}  run {runs}")
        for name, value in found.params.items():
            click.echo(f"{name} {value}")


@command.command("export")
@_sweep_number
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, which is the default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
def export(number: int, *, as_csv: bool, as_json: bool) -> None:
    """Print the trials of sweep NUMBER for other programs, one per row."""
    if as_csv and as_json:
        raise UsageError("--csv and --json cannot be combined")
    view = _view(number)
    if as_json:
        write_json([trial.to_dict() for trial in view.trials])
        return
    names = list(view.trials[0].params) if view.trials else list(view.request.space)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["trial", "run", *names, "status", "value", "step"])
    writer.writerows(
        [t.trial, t.run, *(t.params[name] for name in names), t.status, t.value, t.step] for t in view.trials
    )
