"""`conjure demo`: the story, start to end, with what comes with conjure.

Main entry: `command`. Invariant: every step is a run like any other, and its command is one a user can type.
"""

import json
import time
from typing import TYPE_CHECKING

import click

from conjure.cli.run_view import RunView, follow_run
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.units import format_duration
from conjure.recipes.demo import Step, story
from conjure.recipes.report import REPORT_FILE, report_folder
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import submit
from conjure.runs.schema.status import EXIT_DETACHED, EndReason

if TYPE_CHECKING:
    from collections.abc import Generator


@click.command()
def command() -> int:
    """Run a demo in four runs: sample, prepare a text, fine-tune on it, sample again.

    It takes a minute or two and needs no network: the model and the jokes come with conjure.
    """
    home = Home.from_environment()
    started = time.monotonic()
    steps: Generator[Step, int, None] = story(home)
    numbers: list[int] = []
    step = next(steps)
    while True:
        number, status = _run(home, step, len(numbers) + 1)
        if status:
            return _stopped(home, len(numbers) + 1, number, status)
        numbers.append(number)
        try:
            step = steps.send(number)
        except StopIteration:
            break
    tuned = numbers[2]
    _what_changed(home, tuned)
    click.echo(f"\nFour runs in {format_duration(time.monotonic() - started)}. Next steps:")
    _show_commands(
        (f"report {tuned} --open", "the report, in a browser"),
        (f"metrics {tuned} --plot", "its losses"),
        (f"lineage {numbers[-1]}", "which runs used which files"),
        (f'generate "My wife" --model runs/{tuned}', "more samples"),
        ("finetune YOUR_TEXT.csv", "a fine-tune on your own text"),
    )
    return 0


def _stopped(home: Home, place: int, number: int, status: int) -> int:
    """Say how to go on after a step that did not complete; the exit status."""
    with open_store(home) as store:
        ending = store.get(number).ending
    by_user = ending is None or ending.reason in (EndReason.STOP_REQUESTED, EndReason.KILL_REQUESTED)
    click.echo(f"\nThe demo {'was stopped' if by_user else 'failed'} at step {place}. What to do next:")
    _show_commands(
        (f"info {number}", "how this step ended"),
        ("ps", "the runs so far, which are kept"),
        ("demo", "the demo from the start"),
    )
    return EXIT_DETACHED if by_user else status


def _show_commands(*commands: tuple[str, str]) -> None:
    for words, meaning in commands:
        click.echo(f"  {with_home(f'conjure {words}'):<42}  # {meaning}")


def _run(home: Home, step: Step, place: int) -> tuple[int, int]:
    """Submit one step's run and follow it; its number and exit status."""
    click.echo(click.style(f"\n{place}. {step.title}", bold=True))
    click.echo(click.style(f"$ {with_home(step.command)}", fg="cyan"))
    made = submit(home, step.spec, announce=RunView().submit)
    return made.record.number, follow_run(home, made.record.number, interrupt_stops=True)


def _what_changed(home: Home, number: int) -> None:
    report = json.loads((report_folder(home, str(number)) / REPORT_FILE).read_text("utf-8"))
    base, tuned = report["base"], report["tuned"]
    rows = [
        ("loss on unseen jokes (nats per token)", base["held_out"]["loss"], tuned["held_out"]["loss"], None),
        ("perplexity", base["held_out"]["perplexity"], tuned["held_out"]["perplexity"], None),
        (
            "mean length (tokens)",
            base["lengths"]["mean"],
            tuned["lengths"]["mean"],
            report["lengths"]["data"]["mean"],
        ),
    ]
    click.echo(click.style("\nWhat changed", bold=True))
    click.echo(f"{'':<40}{'before':>9}{'after':>9}{'the data':>10}")
    for name, before, after, real in rows:
        click.echo(f"{name:<40}{before:>9.2f}{after:>9.2f}{'' if real is None else f'{real:>10.2f}'}")
    click.echo(report["verdict"]["headline"])
