"""`conjure finetune`: text in, a tuned model out.

Main entry: `command`. Invariant: the first ^C or SIGTERM saves and stops, the second ends it at once.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from conjure.cli.reading_options import reading_options, special_tokens_option
from conjure.cli.recording import RECORDING, record, recording_options
from conjure.cli.render import StatusLine, note, write_json
from conjure.cli.training_view import MeasuringView, TrainingView, plan_lines, result_json, result_lines
from conjure.cli.typed_options import names_as_typed, typed_options
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.recipes.recording import inside_a_run
from conjure.reporting import RUN_VARIABLE

if TYPE_CHECKING:
    from conjure.lm.training.finetune import Finetuning
    from conjure.lm.training.request import FinetuneRequest
    from conjure.runs.schema.spec import RunSpec

_HERE = "here"  # --resume without a run: the state beside --output


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
@click.argument("data", nargs=-1)
@click.option("--model", default="sprite", show_default=True, help="Model to start from.")
@click.option("-o", "--output", help="Checkpoint folder to write; needs --no-run.")
@reading_options
@special_tokens_option
@click.option("--holdout", type=float, default=0.1, show_default=True, help="Share of records to measure on.")
@click.option("--validation", metavar="FILE", help="Measure on this text, not on a share of the records.")
@click.option(
    "--dedup",
    type=click.Choice(["keep", "drop", "weight"]),
    default="keep",
    show_default=True,
    help="Records that say the same: train on all, on one, or on all as one.",
)
@click.option("--epochs", type=float, default=3, show_default=True, help="Passes over the text, at most.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Blocks per forward pass.")
@click.option(
    "--block-size", type=Automatic(int), default="auto", show_default=True, help="Tokens in a block."
)
@click.option(
    "--learning-rate",
    "--lr",
    "learning_rate",
    type=Automatic(float),
    default="auto",
    show_default=True,
    help="The peak.",
)
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
@click.option("--lora", type=int, metavar="R", help="Learn corrections of rank R, not all the weights.")
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
@click.option(
    "--resume",
    metavar="[runs/N]",
    is_flag=False,
    flag_value=_HERE,
    help="Go on where run N was interrupted; with --no-run, where the training of --output was.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and do nothing else.")
@click.option("--no-run", is_flag=True, help="Train here and now, without recording a run.")
@recording_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def command(context: click.Context, /, *, data: tuple[str, ...], **settings: Any) -> int:
    """Tune a model on text: files, folders, or - for standard input.

    A record (one joke, one document) is a row of a table (.csv .tsv .json .jsonl .parquet), a text file, or
    with --split each of its lines or paragraphs. A tenth of the records is held out, and the weights with the
    lowest loss on them are kept, as a plain Hugging Face checkpoint.

    It is recorded as a run: the checkpoint is runs/N/output, beside it report.html says what was learned. The
    first ^C saves and stops, a second aborts; in a closed terminal it goes on.
    """
    recording = {name: settings.pop(name) for name in RECORDING}
    as_json, no_run, dry_run = (settings.pop(name) for name in ("as_json", "no_run", "dry_run"))
    with names_as_typed(context):
        if dry_run:
            return _show_plan(data, settings, as_json=as_json)
        if no_run or inside_a_run():
            return _train(data, settings, as_json=as_json)
        spec = _spec(context, data, settings, recording)
    return record(spec, background=recording["background"], as_json=as_json)


def _spec(
    context: click.Context, data: tuple[str, ...], settings: dict[str, Any], recording: dict[str, Any]
) -> "RunSpec":
    from conjure.lm.training.request import FinetuneRequest
    from conjure.recipes.finetune import finetune_spec, resumed_spec

    home, resume = Home.from_environment(), settings["resume"]
    if settings["output"] is not None:
        raise UsageError(
            "--output needs --no-run: a recorded fine-tune keeps its checkpoint as runs/N/output",
            fix="--no-run",
        )
    if resume is not None:
        if data or resume == _HERE:
            raise UsageError(
                "--resume takes the interrupted run and nothing else",
                hint="as in --resume runs/3, without data",
            )
        return resumed_spec(home, resume)
    # Every fault is told here and now, before a run gets a number.
    request = FinetuneRequest(**_request(data, settings))
    if "-" not in data:
        _check_data(request)
    options = typed_options(context, leave_out={"model", "validation", "as_json", *RECORDING})
    return finetune_spec(
        home,
        data,
        settings["model"],
        options,
        validation=settings["validation"],
        description=recording["description"],
        labels=recording["label"],
    )


def _check_data(request: "FinetuneRequest") -> None:
    """Refuse data that cannot be read, or of which the first record cannot be found."""
    from conjure.lm.text.readers import read_records
    from conjure.recipes.resources import data_path

    for data in (request.data, [request.validation] if request.validation is not None else []):
        names = [data_path(str(name)) for name in data]
        if names:
            records = read_records(names, column=request.column, split=request.split, layout=request.layout)
            next(records.pieces())


def _show_plan(data: tuple[str, ...], settings: dict[str, Any], *, as_json: bool) -> int:
    plan = _tuning(data, settings).plan
    if as_json:
        write_json(plan.to_dict())
    else:
        for line in plan_lines(plan):
            click.echo(line)
    return 0


def _request(data: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `FinetuneRequest`."""
    if not data:
        raise UsageError("no data was named: name a file, a folder, or - for standard input")
    output = settings["output"] if settings["output"] is not None else "output"
    return {**settings, "data": data, "output": output, "resume": settings["resume"] is not None}


def _tuning(data: tuple[str, ...], settings: dict[str, Any]) -> "Finetuning":
    """The fine-tune, planned."""
    from conjure.lm.training.finetune import Finetuning
    from conjure.lm.training.request import FinetuneRequest
    from conjure.recipes.finetune import claim
    from conjure.recipes.resources import data_path, model_lookup

    names = tuple(data_path(name) for name in data)
    if settings["validation"] is not None:
        settings = {**settings, "validation": data_path(settings["validation"])}
    request = FinetuneRequest(**_request(names, settings))
    if request.resume and inside_a_run():
        claim(Path(request.output))
    with StatusLine() as status:
        return Finetuning(
            request,
            lookups=[model_lookup],
            progress=lambda done, total: status.show(f"Reading text… {done / max(1, total):.0%}"),
        )


def _train(data: tuple[str, ...], settings: dict[str, Any], *, as_json: bool) -> int:
    from conjure.recipes.metrics import report_metrics, report_result

    tuning = _tuning(data, settings)
    for line in plan_lines(tuning.plan):
        note(line)
    with _stopping(tuning) as signals, TrainingView(tuning.plan) as view:
        for event in tuning.run():
            report_metrics(event)
            view.show(event)
    if not signals:
        note("Measuring both models…")
    with MeasuringView() as measuring:
        tuning.measure(measuring.show)
    result = tuning.result()
    report_result(result)
    report = None
    if result.reason != "interrupted":
        note("Writing the report…")
        number = os.environ.get(RUN_VARIABLE)
        report = tuning.write_report(
            Path.cwd() if number is not None else result.checkpoint,
            run=int(number) if number is not None else None,
        )
    if as_json:
        write_json(result_json(result, report))
    else:
        for line in result_lines(result, report):
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
