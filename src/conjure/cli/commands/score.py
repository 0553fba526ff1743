"""`conjure score`: how likely a model finds a text, with the protocol beside every number.

Main entry: `command`. Invariant: the number format does not depend on the machine, so that numbers can be
compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from conjure.cli.data_format_options import data_format_options, layout_of
from conjure.cli.explicit_options import given_options, is_typed
from conjure.cli.recorded_run_options import (
    record,
    recording_options,
    refuse_output,
    refuse_standard_input,
    refuse_unrecorded,
)
from conjure.cli.render import note
from conjure.cli.sampling_options import adapter_option, chat_date_option, model_option
from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.lm.text.sources import STANDARD_INPUT, kind_of
from conjure.metric_logging import inside_a_run
from conjure.recipes.generation_specs import FIGURES_FILE, score_spec
from conjure.recipes.lazy_model_checks import load_request_checks
from conjure.recipes.options import ScoreOptions
from conjure.recipes.resource_lookup import is_resource
from conjure.runs.schema.spec import RunSpec

if TYPE_CHECKING:
    from conjure.lm.generation.scorer_loading import Precision


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="TEXT|FILES...")
@model_option
@click.option("--compare", nargs=2, metavar="MODEL MODEL", help="Compare two models.")
@click.option(
    "--text", "as_text", is_flag=True, help="Read TEXT as text, even if it is or looks like a file name."
)
@data_format_options
@click.option("--context", type=int, help="Context length in tokens; default: the model's, at most 8,192.")
@click.option("--stride", type=int, help="Tokens from one window to the next; default: half the context.")
@chat_date_option
@adapter_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number format; float32 is exact; bfloat16 is faster on some processors.",
)
@click.option("--per-token", is_flag=True, help="Show the log-probability of each token.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write the result as JSON to this file."
)
@click.option("--save", is_flag=True, help="Record a run, with the result as its output.")
@recording_options
@click.pass_context
def command(
    click_context: click.Context,
    /,
    inputs: tuple[str, ...],
    *,
    model: str,
    compare: tuple[str, str] | None,
    as_text: bool,
    column: str | None,
    split: str | None,
    context: int | None,
    stride: int | None,
    chat_date: date | None,
    adapter: str | None,
    precision: "Precision",
    per_token: bool,
    as_json: bool,
    output: Path | None,
    save: bool,
    **settings: Any,
) -> int:
    """Compute the log-probability, loss and perplexity of TEXT, or of the records in FILES.

    FILES are .txt .csv .tsv .json .jsonl .parquet, folders of them, or - for standard input. A single
    argument that is neither an existing file nor has the extension of a data file is TEXT. Each record is
    scored as a document, after one end-of-text token; each token is scored once, given at most --context
    tokens before it.
    """
    layout, recording = layout_of(settings), settings
    if compare is not None:
        _refuse_beside_compare(
            {
                "--per-token": per_token,
                "--adapter": adapter is not None,
                "--model": is_typed(click_context, "model"),
            }
        )
    if save:
        refuse_output(output, FIGURES_FILE)
    if save and not inside_a_run():
        refuse_standard_input(inputs, "leave out --save")
        return record(run_spec(click_context), recording, as_json=as_json)
    refuse_unrecorded(recording, "add --save")
    files = _are_files(inputs, as_text=as_text)

    # Imports numpy and tokenizers, which neither --help nor a recording needs.
    from conjure.cli.language_model import score as implementation

    return implementation.score(
        inputs,
        models=compare if compare is not None else [model],
        files=files,
        column=column,
        split=split,
        layout=layout,
        context=context,
        stride=stride,
        chat_date=chat_date,
        adapter=adapter,
        precision=precision,
        per_token=per_token,
        as_json=as_json,
        output=output,
    )


def run_spec(context: click.Context, placeholders: Mapping[str, str] | None = None) -> RunSpec:
    """The run of this command line: its inputs mounted, the figures in a file.

    Args:
        context: The parsed command line.
        placeholders: Options to fill in later, by name, with the text that stands for them.

    Raises:
        ConjureError: A file cannot be read.
    """
    home, given = Home.from_environment(), context.params
    files = _are_files(given["inputs"], as_text=given["as_text"])
    models = given["compare"] if given["compare"] is not None else [given["model"]]
    options = cast("ScoreOptions", given_options(context, ScoreOptions))
    if files:
        options = load_request_checks().check_score(home, given["inputs"], models, options)
    spec = score_spec(
        home,
        given["inputs"],
        models,
        options,
        files=files,
        placeholders=placeholders,
        description=given["description"],
        labels=given["label"],
    )
    return replace(spec, project=given["project"])


def _refuse_beside_compare(given: Mapping[str, bool]) -> None:
    """Refuse options of one model where two are compared, by their flags and whether they are given."""
    flags = [flag for flag, is_given in given.items() if is_given]
    if flags:
        raise UsageError(
            f"{' and '.join(flags)} cannot be combined with --compare",
            hint=f"leave out --compare, or {' and '.join(flags)}",
        )


def _are_files(inputs: Sequence[str], *, as_text: bool) -> bool:
    """Whether the arguments name files; says on stderr what they were taken for."""
    missing = [name for name in inputs if name != STANDARD_INPUT and not _exists(name)]
    if as_text or (missing and len(inputs) == 1):
        if len(inputs) > 1:
            raise UsageError(
                f"only one text can be scored; {len(inputs)} were given", hint='put it in "quotes"'
            )
        if not as_text and " " not in missing[0] and kind_of(Path(missing[0])) is not None:
            raise NotFoundError(
                f"there is no file {missing[0]}", hint="add --text if that is the text to score"
            )
        note("Scoring the text given.")
        return False
    if missing:
        raise NotFoundError(f"there is no file {missing[0]}", hint='put a text to score in "quotes"')
    note(f"Scoring {', '.join(inputs[:3])}{f' and {len(inputs) - 3} more' if len(inputs) > 3 else ''}.")
    return True


def _exists(name: str) -> bool:
    try:
        return bool(name) and (Path(name).exists() or is_resource(Home.from_environment(), name))
    except OSError:  # too long for a file's name
        return False
