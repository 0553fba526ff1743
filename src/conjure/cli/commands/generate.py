"""`conjure generate`: a prompt in, text out.

Main entry: `command`. Invariant: stdout holds what was written and nothing else; ^C prints what there is.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conjure.cli.recording import RECORDING, record, recording_options
from conjure.cli.render import StatusLine, duration, note, on_terminal, save_json, visible, write_json
from conjure.cli.token_view import show_tokens
from conjure.cli.typed_options import names_as_typed, typed_options
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.errors import DataError, UsageError
from conjure.recipes.recording import Inputs, inside_a_run, recorded
from conjure.recipes.resources import model_lookup

if TYPE_CHECKING:
    from conjure.lm.generation.generate import GenerationRequest, Sample, Token
    from conjure.lm.generation.text_generator import Writer
    from conjure.runs.schema.spec import RunSpec

SAMPLES_FILE = "samples.json"  # among the outputs of a recorded `generate`
SEPARATOR = "=" * 20  # a line of its own between samples, where stdout is no terminal
INTERRUPTED = 130  # exit status after ^C, as shells have it
_STANDARD_INPUT = "standard input"
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@click.command()
@click.argument("prompt", required=False)
@click.option("--prompt", "prompt_option", metavar="TEXT", help="The same as PROMPT.")
@click.option("--model", default="sprite", show_default=True, help="A name, a folder, a run or a hub model.")
@click.option(
    "--length",
    "--max-new-tokens",
    "max_new_tokens",
    type=int,
    default=70,
    show_default=True,
    help="Tokens to write per sample.",
)
@click.option("-n", "--num-samples", type=int, default=1, show_default=True, help="Samples per prompt.")
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="Below 1 bolder, above 1 wilder; 0: greedy.",
)
@click.option("--top-k", type=int, default=50, show_default=True, help="Choose from the K likeliest; 0: all.")
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Choose from the likeliest that reach P."
)
@click.option(
    "--min-p",
    type=float,
    default=0.0,
    show_default=True,
    help="Drop what is less than P times the likeliest.",
)
@click.option(
    "--repetition-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Above 1 makes tokens that were there already less likely.",
)
@click.option(
    "--no-repeat-ngram", type=int, default=0, show_default=True, help="Never write N tokens in a row twice."
)
@click.option(
    "--stop", multiple=True, metavar="TEXT", help=r"End before this text (\n: a line end). Repeatable."
)
@click.option("--seed", type=int, help="Same seed, same text; else one is drawn and printed.")
@click.option(
    "--prompt-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A prompt per line."
)
@click.option(
    "--on-overflow",
    type=click.Choice(["slide", "error"]),
    default="slide",
    show_default=True,
    help="When prompt and text outgrow the model's context.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "int8"]),
    default="auto",
    show_default=True,
    help="Number format; auto is the fastest here, float32 is exact.",
)
@click.option("--logprobs", is_flag=True, help="Show how likely each token was.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of samples.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write that array to this file.")
@click.option("--stream/--no-stream", default=None, help="Print as it is written; default: on a terminal.")
@click.option("--save", is_flag=True, help="Record it as a run, the samples as its output.")
@recording_options
@click.pass_context
def command(
    context: click.Context,
    /,
    prompt: str | None,
    *,
    prompt_option: str | None,
    prompt_file: Path | None,
    model: str,
    precision: str,
    logprobs: bool,
    as_json: bool,
    stream: bool | None,
    save: bool,
    output: Path | None,
    **settings: Any,
) -> int:
    """Write text that goes on from PROMPT, which is taken exactly as it is.

    Without PROMPT a new document is begun; - reads one prompt from standard input. What is written goes to
    stdout, without the prompt (a terminal shows it dimmed), several samples with a line of twenty = between
    them; everything else goes to stderr.
    """
    recording = {name: settings.pop(name) for name in RECORDING}
    prompts = _prompts(_only(prompt, prompt_option), prompt_file)
    with names_as_typed(context):
        request = _request(prompts, settings)
    if save and not inside_a_run():
        spec = _spec(context, prompts, prompt_file, request.seed, recording)
        return record(spec, background=recording["background"], as_json=as_json)
    plain = not as_json and not logprobs
    single = len(prompts) * request.num_samples == 1
    if stream and not (plain and single):
        raise UsageError(
            "--stream shows one sample as it is written", hint="use -n 1, without --json or --logprobs"
        )

    from conjure.lm.generation.text_generator import load_writer

    rows = len(prompts) * request.num_samples
    writer = load_writer(model, precision=precision, rows=rows, lookups=[model_lookup])
    _note_overflow(writer, request)
    streamed = plain and single and (stream if stream is not None else on_terminal())
    writing = _Writing(writer, request, streamed=streamed)
    writing.run()
    if output is not None:
        save_json(output, [draft.as_json(logprobs=True) for draft in writing.drafts()])
    if as_json:
        write_json([draft.as_json(logprobs=logprobs) for draft in writing.drafts()])
    elif not streamed:
        _print(writing, logprobs=logprobs)
    note(writing.summary())
    return INTERRUPTED if writing.interrupted else 0


def _spec(
    context: click.Context,
    prompts: list[str],
    prompt_file: Path | None,
    seed: int,
    recording: dict[str, Any],
) -> "RunSpec":
    """The run of this command: its inputs mounted, the seed fixed, the samples in a file."""
    inputs = Inputs(Home.from_environment())
    given = {"model", "prompt_option", "prompt_file", "seed", "save", "output", "as_json", "stream"}
    words = ["--model", inputs.model(context.params["model"]), f"--seed={seed}", "--output", SAMPLES_FILE]
    words += typed_options(context, leave_out=given | set(RECORDING))
    if prompt_file is not None:
        words += ["--prompt-file", inputs.data(str(prompt_file))]
    elif prompts != [""]:
        words += ["--", *prompts]
    return recorded(
        "generate",
        words,
        inputs.mounts,
        description=recording["description"],
        labels=recording["label"],
    )


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
        raise DataError(f"{prompt_file} is empty, so it holds no prompt", hint="put a prompt on each line")
    return [line.removesuffix("\r") for line in lines]


def _text(data: bytes, name: str) -> str:
    from conjure.lm.text.encodings import guess_bytes, read_text

    try:
        return read_text(data)
    except UnicodeDecodeError as error:
        guess = guess_bytes(data)
        hint = f"; read as {guess.encoding} it says {guess.sample!r}" if guess is not None else ""
        raise DataError(
            f"{name} is not UTF-8 text: byte {error.start:,} cannot be read{hint}",
            fix=f"iconv -f {guess.encoding} -t utf-8 {shell_words(name)} > utf8.txt"
            if guess is not None and name != _STANDARD_INPUT
            else None,
        ) from error


def _request(prompts: list[str], settings: dict[str, Any]) -> "GenerationRequest":
    from conjure.lm.generation.generate import GenerationRequest

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


def _note_overflow(writer: "Writer", request: "GenerationRequest") -> None:
    from conjure.lm.generation.generate import exceeds_context

    if request.on_overflow != "slide":
        return
    context = writer.engine.context_length
    longest = max(1, *map(len, writer.tokenizer.encode_batch(list(request.prompts))))
    if exceeds_context(longest, request, context):
        note(
            f"A prompt of {longest:,} and {request.max_new_tokens:,} new tokens outgrow the context of "
            f"{context:,}: each time it is full, the model goes on from the last {context // 2:,}."
        )


class _Draft:
    """One sample as far as it has been written."""

    def __init__(self, prompt: str, token: "Token", seed: int) -> None:
        self.prompt, self.index, self.seed = prompt, token.index, seed
        self.tokens: list[Token] = []
        self.finish_reason = "interrupted"  # unless it comes to its end

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        return [token.logprob for token in self.tokens]

    def as_json(self, *, logprobs: bool) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "index": self.index,
            "text": self.text,
            "token_ids": self.token_ids,
            **({"logprobs": self.logprobs} if logprobs else {}),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
        }


class _Writing:
    """Takes a request through, shows how far it is, and keeps what was written if it is interrupted."""

    def __init__(self, writer: "Writer", request: "GenerationRequest", *, streamed: bool) -> None:
        self.writer, self.request, self.interrupted = writer, request, False
        self._streamed = streamed
        self._drafts: dict[tuple[int, int], _Draft] = {}
        self._tokens, self._seconds, self._finished = 0, 0.0, 0

    def run(self) -> None:
        from conjure.lm.generation.generate import Sample, stream

        start = time.monotonic()
        if self._streamed:
            _show_prompt(self.request.prompts[0])
        with StatusLine() as status:
            try:
                for event in stream(self.writer.engine, self.writer.tokenizer, self.request):
                    self._end(event) if isinstance(event, Sample) else self._take(event)
                    self._seconds = time.monotonic() - start
                    if not self._streamed:
                        status.show(self._progress())
            except KeyboardInterrupt:
                self.interrupted = True
        if self._streamed:
            click.echo()

    def drafts(self) -> Iterator[_Draft]:
        """By prompt, then by index."""
        return (self._drafts[key] for key in sorted(self._drafts))

    def summary(self) -> str:
        facts = [self.writer.origin, self.writer.precision]
        facts += [f"seed {self.request.seed}", f"{self._tokens:,} tokens in {duration(self._seconds)}"]
        if self._seconds > 0:
            facts.append(f"{self._tokens / self._seconds:,.0f} tokens/s")
        reasons = {draft.finish_reason for draft in self._drafts.values()}
        return " · ".join([*facts, *(reason.replace("_", " ") for reason in sorted(reasons))])

    def _take(self, token: "Token") -> None:
        key = (token.prompt_index, token.index)
        if key not in self._drafts:
            self._drafts[key] = _Draft(self.request.prompts[token.prompt_index], token, self.request.seed)
        self._drafts[key].tokens.append(token)
        self._tokens += 1
        if self._streamed and token.text:
            click.echo(visible(token.text), nl=False)

    def _end(self, sample: "Sample") -> None:
        self._drafts[sample.prompt_index, sample.index].finish_reason = sample.finish_reason
        self._finished += 1

    def _progress(self) -> str:
        samples = len(self.request.prompts) * self.request.num_samples
        rate = self._tokens / self._seconds if self._seconds else 0.0
        left = (samples * self.request.max_new_tokens - self._tokens) / rate if rate else 0.0
        return (
            f"{self._finished:,} of {samples:,} samples · {self._tokens:,} tokens · {rate:,.0f} tokens/s"
            f" · at most {duration(left)} left"
        )


def _print(writing: _Writing, *, logprobs: bool) -> None:
    drafts = list(writing.drafts())
    for number, draft in enumerate(drafts, start=1):
        if on_terminal():
            if len(drafts) > 1:
                click.echo(click.style(f"── {number} of {len(drafts)} " + "─" * 20, dim=True))
            _show_prompt(draft.prompt)
        elif number > 1:
            click.echo(SEPARATOR)
        if logprobs:
            show_tokens(writing.writer.tokenizer, draft.token_ids, draft.logprobs)
        else:
            click.echo(visible(draft.text))


def _show_prompt(prompt: str) -> None:
    if on_terminal():
        click.echo(click.style(visible(prompt), dim=True), nl=False)
