"""The options by which a command is told how its text is written.

Main entries: `reading_options`, `layout_of`. Invariant: every command that reads records has all of them.
"""

from collections.abc import Callable
from typing import Any

import click

from conjure.lm.text.layout import Layout

LAYOUT = ("format", "delimiter", "header", "quoting", "encoding")


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --column, --split and what says how files are written."""
    for option in (
        click.option("--encoding", metavar="NAME", help="Of text without a byte order mark; else UTF-8."),
        click.option(
            "--quoting",
            type=click.Choice(["auto", "standard", "none"]),
            default="auto",
            show_default=True,
            help="Whether CSV and TSV fields may be in quotes; auto: in TSV where they balance.",
        ),
        click.option(
            "--header/--no-header",
            default=True,
            show_default=True,
            help="Whether the first row names the columns; else they are 1, 2, 3, ….",
        ),
        click.option(
            "--delimiter", metavar="C", help=r"What separates columns (\\t: a tab); else many rows decide."
        ),
        click.option(
            "--format",
            type=click.Choice(["txt", "csv", "tsv", "jsonl", "json", "parquet"]),
            help="Kind of the files, whatever their names end in.",
        ),
        click.option(
            "--split",
            type=click.Choice(["lines", "paragraphs"]),
            help="Cut text files into records; else each is one.",
        ),
        click.option(
            "--column", metavar="NAME", help="Column to read from tables; else the only one with text."
        ),
    ):
        command = option(command)
    return command


def layout_of(settings: dict[str, Any]) -> Layout:
    """What was said about how the files are written, taken out of a command's settings."""
    return Layout(**{name: settings.pop(name) for name in LAYOUT})


special_tokens_option = click.option(
    "--special-tokens",
    type=click.Choice(["text", "token"]),
    default="text",
    show_default=True,
    help="What <|endoftext|> written in a text is.",
)
