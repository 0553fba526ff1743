"""The options by which a command is told with which model, how freely and by what date to write.

Main entries: `sampling_options`, `model_option`. Invariant: every command that writes text has them with the
same defaults.
"""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import click


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what `conjure.lm.generation.request.SamplingSettings` holds."""
    for option in (
        click.option(
            "--no-repeat-ngram",
            type=int,
            default=0,
            show_default=True,
            metavar="N",
            help="Never repeat a sequence of N tokens; 0: off.",
        ),
        click.option(
            "--repetition-penalty",
            type=float,
            default=1.0,
            show_default=True,
            help="Above 1 makes tokens that already occurred less likely.",
        ),
        click.option(
            "--min-p",
            type=float,
            default=0.0,
            show_default=True,
            metavar="P",
            help="Drop tokens less likely than P times the most likely one.",
        ),
        click.option(
            "--top-p",
            type=float,
            default=1.0,
            show_default=True,
            metavar="P",
            help="Sample from the most likely tokens whose probabilities add up to P.",
        ),
        click.option(
            "--top-k",
            type=int,
            default=50,
            show_default=True,
            metavar="K",
            help="Sample from the K most likely tokens; 0: all.",
        ),
        click.option(
            "--temperature",
            type=float,
            default=1.0,
            show_default=True,
            help="Lower is more predictable, higher more random; 0 is greedy.",
        ),
    ):
        command = option(command)
    return command


model_option = click.option(
    "--model", default="sprite", show_default=True, help="Model name, folder, run or Hugging Face model."
)

seed_option = click.option("--seed", type=int, help="Random seed; default: a new one, which is printed.")

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "int8"]),
    default="auto",
    show_default=True,
    help="Number format; auto: the fastest on this machine; float32 is exact.",
)


def _date(_context: click.Context, _parameter: click.Parameter, given: datetime | None) -> date | None:
    return given.date() if given is not None else None


chat_date_option = click.option(
    "--chat-date",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=_date,
    metavar="DATE",
    help="Date for the chat template; default: today.",
)

adapter_option = click.option(
    "--adapter", metavar="DIR", help="PEFT folder whose LoRA weights to merge into the model."
)
