"""`conjure data preview`: text as a model will see it, before a minute is spent on training.

Main entry: `command`. Invariant: no weights are loaded; the token ids made here are the ones that
`conjure finetune` will find.
"""

from typing import Any

import click

from conjure.cli.data_format_options import (
    data_format_options,
    layout_of,
    special_tokens_option,
)
from conjure.cli.run_number_type import WholeNumber


@click.group("data")
def command() -> None:
    """Preview text as a model will see it."""


@command.command()
@click.argument("files", nargs=-1, required=True)
@data_format_options
@special_tokens_option
@click.option("--model", default="sprite", show_default=True, help="Model whose tokenizer to use.")
@click.option(
    "-n",
    "count",
    type=WholeNumber(least=0),
    default=5,
    metavar="N",
    show_default=True,
    help="Number of records to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def preview(
    files: tuple[str, ...],
    *,
    column: str | None,
    split: str | None,
    special_tokens: str,
    model: str,
    count: int,
    as_json: bool,
    **layout: Any,
) -> None:
    """Count records and tokens, and show the first records as a model sees them.

    FILES are .txt .csv .tsv .json .jsonl .parquet, folders of them, or - for standard input. A record (one
    joke, one document) is a whole .txt file (with --split, a line or paragraph) or a row of a table.
    """
    # Imports numpy and tokenizers, which --help must not.
    from conjure.cli.language_model import data_preview as implementation

    implementation.preview(
        files,
        column=column,
        split=split,
        layout=layout_of(layout),
        special_tokens=special_tokens,
        model=model,
        count=count,
        as_json=as_json,
    )
