"""`conjure generate`: a prompt in, text out.

Main entry: `command`. Invariant: stdout holds what was written and nothing else; ^C prints what there is.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import click

from conjure.cli.explicit_options import given_options
from conjure.cli.recorded_run_options import (
    RECORDING,
    record,
    recording_options,
    refuse_output,
    refuse_unrecorded,
)
from conjure.cli.sampling_options import (
    adapter_option,
    chat_date_option,
    model_option,
    precision_option,
    sampling_options,
    seed_option,
)
from conjure.cli.saved_commands.options import SavableCommand, saved_command_options
from conjure.cli.saved_commands.options import save_command as save_to_file
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.text import today
from conjure.errors import DataError, UsageError, option
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.text.encodings import guess_bytes, read_text
from conjure.metric_logging import inside_a_run
from conjure.recipes.generation_specs import (
    SAMPLES_FILE,
    check_generate,
    generate_spec,
    refuse_empty_question,
    refuse_needless_date,
)
from conjure.recipes.options import GenerateOptions
from conjure.runs.schema.spec import RunSpec

_STANDARD_INPUT = "standard input"

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@click.command(cls=SavableCommand)
@click.argument("prompt", required=False)
@model_option
@click.option("--prompt", "prompt_option", metavar="TEXT", help="The same as PROMPT.")
@click.option(
    "--length",
    "--max-new-tokens",
    "max_new_tokens",
    type=int,
    default=70,
    show_default=True,
    help="Maximum number of new tokens per sample.",
)
@click.option(
    "-n", "--num-samples", type=int, default=1, show_default=True, help="Number of samples per prompt."
)
@sampling_options
@click.option(
    "--stop", multiple=True, metavar="TEXT", help=r"Stop before this text (\n: a line break). Repeatable."
)
@seed_option
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read one prompt from each line of a file.",
)
@click.option(
    "--on-overflow",
    type=click.Choice(["slide", "error"]),
    default="slide",
    show_default=True,
    help="What to do when prompt and text exceed the model's context.",
)
@precision_option
@click.option("--chat", is_flag=True, help="Ask PROMPT as a question, with the model's chat template.")
@chat_date_option
@adapter_option
@click.option("--logprobs", is_flag=True, help="Show the log-probability of each token.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of samples.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write the samples as JSON to this file."
)
@click.option(
    "--stream/--no-stream", default=None, help="Print text as it is generated; default: on a terminal."
)
@click.option("--save", is_flag=True, help="Record a run, with the samples as its output.")
@recording_options
@saved_command_options
@click.pass_context
def command(
    context: click.Context,
    /,
    prompt: str | None,
    *,
    prompt_option: str | None,
    prompt_file: Path | None,
    model: str,
    adapter: str | None,
    precision: str,
    logprobs: bool,
    as_json: bool,
    stream: bool | None,
    chat: bool,
    chat_date: date | None,
    save: bool,
    save_command: Path | None,
    output: Path | None,
    **settings: Any,
) -> int:
    """Generate text that continues PROMPT, which is used exactly as given.

    Without PROMPT a new document is started; - reads the prompt from standard input. The text goes to stdout,
    without the prompt (a terminal shows it dimmed); several samples are separated by a line of twenty =.
    Everything else goes to stderr. With --chat, PROMPT is a question, and the text is the model's answer.
    """
    recording = {name: settings.pop(name) for name in RECORDING}
    prompts = _prompts(_only(prompt, prompt_option), prompt_file)
    if chat:
        refuse_empty_question(prompts)
    if not inside_a_run():  # an older conjure may have recorded one
        refuse_needless_date({"chat_date": chat_date}, are_chats=chat)
    if save:
        refuse_output(output, SAMPLES_FILE)
        if stream and not inside_a_run():
            raise UsageError(
                f"{option('stream')} and {option('save')} cannot be combined: the log of a run has its text"
                " when it is complete",
                hint="leave one of them out",
            )
    day = chat_date if chat_date is not None else today()
    request = _request(prompts, settings)
    if save_command is not None:
        return save_to_file(context, save_command)
    if save and not inside_a_run():
        return record(_spec(context, prompts), recording, as_json=as_json)
    refuse_unrecorded(recording, "add --save")
    # Imports numpy and tokenizers, which neither --help nor a mistake needs.
    from conjure.cli.language_model import generate as implementation

    return implementation.generate(
        request,
        model=model,
        adapter=adapter,
        precision=precision,
        chat_on=day if chat else None,
        logprobs=logprobs,
        as_json=as_json,
        streaming=stream,
        output=output,
    )


def _request(prompts: list[str], settings: dict[str, Any]) -> GenerationRequest:
    """What the options of the command ask for."""
    stop = [_unescaped(text) for text in settings.pop("stop")]
    given = {name: value for name, value in settings.items() if value is not None}
    return GenerationRequest(prompts=prompts, stop=stop, **given)


def _unescaped(text: str) -> str:
    r"""`text` with ``\n``, ``\t`` and ``\\`` read as in Python: shells make a line end hard to type."""
    pieces, rest = [], text
    while rest:
        taken = next((escape for escape in _ESCAPES if rest.startswith(escape)), rest[0])
        pieces.append(_ESCAPES.get(taken, taken))
        rest = rest[len(taken) :]
    return "".join(pieces)


def run_spec(context: click.Context, placeholders: Mapping[str, str] | None = None) -> RunSpec:
    """The run of this command line: its inputs mounted, the seed fixed, the samples in a file.

    Args:
        context: The parsed command line.
        placeholders: Options to fill in later, by name, with the text that stands for them.
    """
    given, swept = context.params, dict(placeholders or {})
    prompt = _only(given["prompt"], given["prompt_option"])
    swept_prompt = swept.pop("prompt", None) or swept.pop("prompt_option", None)
    if swept_prompt is not None and prompt == "-":
        raise UsageError("standard input cannot be a prompt of a sweep over prompts")
    return _spec(context, _prompts(prompt, given["prompt_file"]), swept, swept_prompt)


def _spec(
    context: click.Context,
    prompts: list[str],
    placeholders: Mapping[str, str] | None = None,
    swept_prompt: str | None = None,
) -> RunSpec:
    """The run of a command line whose prompts are read: standard input can be read once."""
    given = context.params
    options = cast("GenerateOptions", given_options(context, GenerateOptions))
    if "stop" in options:
        options["stop"] = [_unescaped(text) for text in options["stop"]]
    options = check_generate(prompts, options)
    spec = generate_spec(
        Home.from_environment(),
        swept_prompt if swept_prompt is not None else prompts[0],
        given["model"],
        options,
        prompt_file=given["prompt_file"],
        placeholders=placeholders,
        description=given["description"],
        labels=given["label"],
    )
    return replace(spec, project=given["project"])


def _only(argument: str | None, option: str | None) -> str | None:
    """The prompt, whichever way it was given."""
    if argument is not None and option is not None:
        raise UsageError("PROMPT and --prompt cannot both be given", hint="leave one of them out")
    return argument if argument is not None else option


def _prompts(prompt: str | None, prompt_file: Path | None) -> list[str]:
    if prompt_file is None:
        return [_text(sys.stdin.buffer.read(), _STANDARD_INPUT) if prompt == "-" else prompt or ""]
    if prompt is not None:
        raise UsageError("PROMPT and --prompt-file cannot both be given", hint="leave one of them out")
    lines = _text(prompt_file.read_bytes(), str(prompt_file)).removeprefix("\ufeff").split("\n")
    lines = lines if lines[-1] else lines[:-1]
    if not lines:
        raise DataError(f"{prompt_file} is empty, so it contains no prompt", hint="put a prompt on each line")
    return [line.removesuffix("\r") for line in lines]


def _text(data: bytes, name: str) -> str:
    try:
        return read_text(data)
    except UnicodeDecodeError as error:
        guess = guess_bytes(data)
        hint = f"; decoded as {guess.encoding}: {guess.sample!r}" if guess is not None else ""
        raise DataError(
            f"{name} is not UTF-8 text: byte {error.start:,} cannot be read{hint}",
            fix=f"iconv -f {guess.encoding} -t utf-8 {shell_words(name)} > utf8.txt"
            if guess is not None and name != _STANDARD_INPUT
            else None,
        ) from error
