"""`conjure finetune`: text in, a tuned model out.

Main entry: `command`. Invariant: the first ^C or SIGTERM saves and stops, the second ends it at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from conjure.cli.render import StatusLine, note, write_json
from conjure.cli.training_view import TrainingView, plan_lines, result_json, result_lines

if TYPE_CHECKING:
    from conjure.lm.finetune import Finetuning


class Automatic(click.ParamType):
    """A number, or ``auto`` (None): let the plan decide."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = "integer|auto" if kind is int else "float|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number typed, or None for ``auto``."""
        if value is None or value == "auto":
            return None
        try:
            return self.kind(value)
        except ValueError:
            return self.fail(f"{value!r} is neither a number nor auto", param, ctx)


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--model", default="sprite", show_default=True, help="Model to start from.")
@click.option("--output", default="output", show_default=True, help="Checkpoint folder to write.")
@click.option("--column", help="Column of a table that holds the text.")
@click.option("--split", type=click.Choice(["lines", "paragraphs"]), help="Cut text files into records.")
@click.option("--holdout", type=float, default=0.1, show_default=True, help="Share of records to measure on.")
@click.option("--epochs", type=float, default=3, show_default=True, help="Passes over the text, at most.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Blocks per forward pass.")
@click.option(
    "--block-size", type=Automatic(int), default="auto", show_default=True, help="Tokens in a block."
)
@click.option("--learning-rate", type=Automatic(float), default="auto", show_default=True, help="The peak.")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "constant"]),
    default="cosine",
    show_default=True,
    help="How the learning rate falls.",
)
@click.option(
    "--warmup-ratio", type=float, default=0.03, show_default=True, help="Share of steps to rise in."
)
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Of matrices, decoupled.")
@click.option("--max-grad-norm", type=float, default=1.0, show_default=True, help="Clip to this; 0: never.")
@click.option("--dropout", type=float, default=0.1, show_default=True, help="On embeddings and branches.")
@click.option(
    "--attention-dropout", type=float, default=0.0, show_default=True, help="On attention weights; slow."
)
@click.option(
    "--grad-accumulation", type=int, default=1, show_default=True, help="Forward passes per optimizer step."
)
@click.option("--mask-records", is_flag=True, help="Let no record see the one before it in its block.")
@click.option(
    "--patience", type=int, default=3, show_default=True, help="Evaluations without gain to stop; 0: never."
)
@click.option("--seed", type=int, default=42, show_default=True, help="Of everything random.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Number format; auto is the fastest here.",
)
@click.option(
    "--freeze", type=int, default=0, show_default=True, help="Leave the embeddings and N first blocks alone."
)
@click.option("--max-steps", type=int, help="Most optimizer steps.")
@click.option(
    "--eval-every", type=Automatic(int), default="auto", show_default=True, help="Steps between evaluations."
)
@click.option(
    "--save-every",
    type=Automatic(int),
    default="auto",
    show_default=True,
    help="Steps between saves; 0: none.",
)
@click.option(
    "--sample-every",
    type=Automatic(int),
    default="auto",
    show_default=True,
    help="Steps between samples; 0: none.",
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted training stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(*, as_json: bool, **settings: Any) -> int:
    """Tune a model on text: files, folders, or - for standard input.

    A record (one joke, one document) is a row of a table (.csv .tsv .jsonl .parquet), a text file, or with
    --split each of its lines or paragraphs. A tenth of the records is held out, and the weights with the
    lowest loss on them are kept in the output folder, a plain Hugging Face checkpoint.
    """
    from conjure.lm.finetune import Finetuning
    from conjure.lm.finetune_request import FinetuneRequest

    request = FinetuneRequest(**settings)
    with StatusLine() as status:
        tuning = Finetuning(
            request, progress=lambda done, total: status.show(f"Reading text… {done / max(1, total):.0%}")
        )
    for line in plan_lines(tuning.plan):
        note(line)
    with _stopping(tuning) as signals, TrainingView(tuning.plan) as view:
        for event in tuning.run():
            view.show(event)
    result = tuning.result()
    if as_json:
        write_json(result_json(result))
    else:
        for line in result_lines(result, request):
            click.echo(line)
    return 128 + signals[0] if signals and result.reason == "interrupted" else 0


@contextmanager
def _stopping(tuning: "Finetuning") -> Iterator[list[int]]:
    """Stop on the first signal, in order; let the second one through. Yields the signals that came."""
    came: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        note("\nStopping after this step and saving; once more ends it at once.")
        tuning.stop()
        for name in handled:
            signal.signal(name, handled[name])

    handled = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in handled:
        signal.signal(name, stop)
    try:
        yield came
    finally:
        for name, handler in handled.items():
            signal.signal(name, handler)
