"""The options by which a command is told how its text is written.

Main entries: `data_format_options`, `layout_of`. Invariant: every command that reads records has all of them.
"""

from collections.abc import Callable
from typing import Any

import click

from conjure.lm.text.read_options import ReadOptions

LAYOUT = ("format", "delimiter", "header", "quoting", "encoding")


def data_format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --column, --split and what says how files are written."""
    for option in (
        click.option(
            "--encoding", metavar="NAME", help="Encoding of text without a byte order mark; default: UTF-8."
        ),
        click.option(
            "--quoting",
            type=click.Choice(["auto", "standard", "none"]),
            default="auto",
            show_default=True,
            help="Whether CSV and TSV fields may be quoted; auto: in TSV only if the quotes balance.",
        ),
        click.option(
            "--header/--no-header",
            default=True,
            show_default=True,
            help="Whether the first row names the columns; else they are named 1, 2, 3, ….",
        ),
        click.option("--delimiter", metavar="C", help=r"Column delimiter (\t: a tab); default: detected."),
        click.option(
            "--format",
            type=click.Choice(["txt", "csv", "tsv", "jsonl", "json", "parquet"]),
            help="File format, regardless of file extensions.",
        ),
        click.option(
            "--split",
            type=click.Choice(["lines", "paragraphs"]),
            help="Split text files into records; default: one record per file.",
        ),
        click.option(
            "--column", metavar="NAME", help="Table column to read; default: the only one with text."
        ),
    ):
        command = option(command)
    return command


def layout_of(settings: dict[str, Any]) -> ReadOptions:
    """What was said about how the files are written, taken out of a command's settings."""
    return ReadOptions(**{name: settings.pop(name) for name in LAYOUT})


special_tokens_option = click.option(
    "--special-tokens",
    type=click.Choice(["text", "token"]),
    default="text",
    show_default=True,
    help="Read <|endoftext|> in a text as plain text or as the token.",
)
