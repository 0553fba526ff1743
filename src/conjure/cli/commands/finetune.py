"""`conjure finetune`: text in, a tuned model out.

Main entry: `command`. Invariant: the first ^C or SIGTERM saves and stops, the second ends it at once.
"""

from dataclasses import replace
from typing import Any

import click

from conjure.cli.data_format_options import data_format_options, special_tokens_option
from conjure.cli.explicit_options import given_options, is_typed
from conjure.cli.recorded_run_options import (
    RECORDING,
    record,
    recording_options,
    refuse_standard_input,
    refuse_unrecorded,
)
from conjure.cli.sampling_options import adapter_option, chat_date_option
from conjure.cli.saved_commands.options import SavableCommand, save_command, saved_command_options
from conjure.core.home import Home
from conjure.errors import UsageError, option
from conjure.metric_logging import inside_a_run
from conjure.recipes.finetune_specs import resumed_spec
from conjure.recipes.options import FinetuneOptions
from conjure.runs.schema.spec import RunSpec

_HERE = "here"  # --resume without a run: the state beside --output
_FREE_TO_RESUME = ("distributed", "nodes")  # options that change nothing in what is trained


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


@click.command(cls=SavableCommand)
@click.argument("data", nargs=-1)
@click.option("--model", default="sprite", show_default=True, help="Model to start from.")
@click.option("-o", "--output", help="Checkpoint folder to write; needs --no-run.")
@data_format_options
@special_tokens_option
@click.option(
    "--holdout",
    type=float,
    default=0.1,
    show_default=True,
    help="Fraction of records to hold out for evaluation.",
)
@click.option("--validation", metavar="FILE", help="Evaluate on this text instead of held-out records.")
@click.option(
    "--dedup",
    type=click.Choice(["keep", "drop", "weight"]),
    default="drop",
    show_default=True,
    help="Duplicate records: train on all, on one of each group, or weight each group as one.",
)
@click.option(
    "--prompt-loss-weight",
    type=float,
    default=0.0,
    show_default=True,
    metavar="W",
    help="Weight of the tokens of a conversation that are not answers.",
)
@chat_date_option
@click.option(
    "--epochs", type=float, default=3, show_default=True, help="Maximum number of passes over the text."
)
@click.option("--batch-size", type=int, default=8, show_default=True, help="Blocks per forward pass.")
@click.option(
    "--block-size", type=Automatic(int), default="auto", show_default=True, help="Tokens per block."
)
@click.option(
    "--learning-rate",
    "--lr",
    "learning_rate",
    type=Automatic(float),
    default="auto",
    show_default=True,
    help="Peak learning rate.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "constant"]),
    default="cosine",
    show_default=True,
    help="Learning rate schedule.",
)
@click.option(
    "--warmup-ratio", type=float, default=0.03, show_default=True, help="Fraction of steps for warm-up."
)
@click.option(
    "--weight-decay",
    type=float,
    default=0.01,
    show_default=True,
    help="Decoupled weight decay of the matrices.",
)
@click.option(
    "--max-grad-norm", type=float, default=1.0, show_default=True, help="Clip gradients to this norm; 0: off."
)
@click.option(
    "--dropout",
    type=Automatic(float),
    default="auto",
    show_default=True,
    help="Dropout on embeddings and residual branches; auto: as in the model's config.json.",
)
@click.option(
    "--attention-dropout",
    type=float,
    default=0.0,
    show_default=True,
    help="Dropout on attention weights; slow.",
)
@click.option(
    "--grad-accumulation", type=int, default=1, show_default=True, help="Forward passes per optimizer step."
)
@click.option(
    "--distributed",
    type=int,
    metavar="N",
    help="Train with N processes, which share the blocks of each step.",
)
@click.option(
    "--nodes",
    type=int,
    metavar="M",
    help="Train on M nodes of --on, with the processes of --distributed on each.",
)
@click.option(
    "--mask-records/--no-mask-records",
    default=None,
    help="Mask attention between the records of a block; default: for models with rotary positions.",
)
@click.option(
    "--patience",
    type=int,
    default=3,
    show_default=True,
    metavar="N",
    help="Stop after N evaluations without improvement; 0: off.",
)
@click.option("--seed", type=int, default=42, show_default=True, help="Random seed.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Number format; auto: the fastest on this machine.",
)
@click.option(
    "--freeze",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Freeze the embeddings and the first N blocks.",
)
@click.option("--lora", type=int, metavar="R", help="Train LoRA adapters of rank R instead of all weights.")
@click.option(
    "--lora-output",
    type=click.Choice(["merged", "adapter"]),
    default="merged",
    show_default=True,
    help="adapter: also keep the LoRA weights as a PEFT folder, beside the merged model.",
)
@adapter_option
@click.option("--max-steps", type=int, help="Maximum number of optimizer steps.")
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
    help="Steps between samples, which are written at evaluations; 0: none.",
)
@click.option(
    "--resume",
    metavar="[runs/N]",
    is_flag=False,
    flag_value=_HERE,
    help="Resume the interrupted run N; with --no-run, the training in --output.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and exit.")
@click.option("--no-run", is_flag=True, help="Train without recording a run.")
@recording_options
@saved_command_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def command(context: click.Context, /, *, data: tuple[str, ...], **settings: Any) -> int:
    """Fine-tune a model on text: files, folders, or - for standard input (with --no-run).

    A record (one joke, one document) is a row of a table (.csv .tsv .json .jsonl .parquet), a text file, or
    with --split each of its lines or paragraphs; or a conversation, of which only the answers are trained on.
    A tenth of the records is held out, and the weights with the lowest eval loss are saved as a Hugging Face
    checkpoint.

    The fine-tune is recorded as a run: the checkpoint is runs/N/output, the report is runs/N/report.html, a
    LoRA adapter is runs/N/output.adapter. The first ^C saves and stops, the second aborts; if the terminal is
    closed, the run continues.
    """
    # Imports numpy and tokenizers, which --help must not.
    from conjure.cli.language_model import finetune as implementation

    recording = {name: settings.pop(name) for name in RECORDING}
    saved_to = settings.pop("save_command")
    as_json, no_run, dry_run = (settings.pop(name) for name in ("as_json", "no_run", "dry_run"))
    if saved_to is not None:
        if settings["resume"] is None:
            implementation.checked_spec(context)
        return save_command(context, saved_to)
    if no_run:
        refuse_unrecorded(recording, "leave out --no-run")
    if dry_run or no_run or inside_a_run():
        _refuse_run_to_resume(settings["resume"], no_run=no_run, dry_run=dry_run)
        return implementation.train_here(data, settings, dry_run=dry_run, as_json=as_json)
    _refuse_output(settings)
    if settings["resume"] is not None:
        _refuse_changed_options(context)
        spec = _resumed_spec(data, settings, recording)
        implementation.refuse_changed_base(settings["resume"])
        implementation.refuse_unequal_shares(spec)
    else:
        # Every fault is told here and now, before a run gets a number.
        refuse_standard_input(data, "add --no-run")
        spec = implementation.checked_spec(context)
    return record(spec, recording, as_json=as_json)


def _refuse_run_to_resume(resume: str | None, *, no_run: bool, dry_run: bool) -> None:
    """Refuse to resume a run where none is recorded.

    Raises:
        UsageError: A run is given.
    """
    if resume in (None, _HERE):
        return
    given = option("resume", resume)
    if not (no_run or dry_run):
        raise UsageError(f"{given} records a new run, which a command inside a run cannot do")
    other = option("no_run" if no_run else "dry_run", True)
    hint = f"{option('resume', True)} alone resumes the training in {option('output')}" if no_run else None
    raise UsageError(f"{given} records a new run; it cannot be combined with {other}", hint=hint)


def _refuse_output(settings: dict[str, Any]) -> None:
    if settings["output"] is not None:
        raise UsageError(
            "--output needs --no-run: a recorded fine-tune keeps its checkpoint as runs/N/output",
            fix="--no-run",
        )


def _refuse_changed_options(context: click.Context) -> None:
    """Refuse options of training beside --resume: the training goes on with those it has.

    Raises:
        UsageError: One is given.
    """
    given = given_options(context, FinetuneOptions)
    changed = [name for name in given if name not in _FREE_TO_RESUME]
    if is_typed(context, "model"):
        changed.insert(0, "model")
    if changed:
        raise UsageError(
            f"{option('resume')} continues with the interrupted run's model and options;"
            f" {', '.join(map(option, changed))} cannot be given"
        )


def _resumed_spec(data: tuple[str, ...], settings: dict[str, Any], recording: dict[str, Any]) -> RunSpec:
    resume = settings["resume"]
    if data or resume == _HERE:
        raise UsageError("--resume takes a run and no data", hint="as in --resume runs/3")
    spec = resumed_spec(
        Home.from_environment(),
        resume,
        distributed=settings["distributed"],
        nodes=settings["nodes"],
        description=recording["description"],
        labels=recording["label"],
    )
    return spec if recording["project"] is None else replace(spec, project=recording["project"])
