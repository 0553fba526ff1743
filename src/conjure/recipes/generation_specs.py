"""Generating and scoring as runs.

Main entries: `check_generate`, `generate_spec`, `score_spec`; and `refuse_empty_question` and
`refuse_needless_date`, where nothing is recorded. Invariant: what a run writes is among its outputs, as JSON.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conjure.core.home import Home
from conjure.core.text import today
from conjure.errors import UsageError, option
from conjure.lm.generation.request import GenerationRequest
from conjure.recipes.options import GenerateOptions, ScoreOptions, checked_options
from conjure.recipes.run_specs import InputMounts, conjure_command_spec, with_set_precision
from conjure.runs.schema.spec import RunSpec

SAMPLES_FILE = "samples.json"  # among the outputs of a recorded `generate`
FIGURES_FILE = "score.json"  # among the outputs of a recorded `score`
_LONGEST_ARGUMENT = (1 << 17) - 1  # bytes that Linux passes to a program as one (MAX_ARG_STRLEN less its end)


def refuse_empty_question(prompts: Sequence[str]) -> None:
    """Refuse to ask a chat model nothing.

    Raises:
        UsageError: A prompt is empty.
    """
    if not all(text.strip() for text in prompts):
        raise UsageError(f"{option('chat')} needs a question, and the prompt is empty")


def refuse_needless_date(options: Mapping[str, object], *, are_chats: bool) -> None:
    """Refuse a date for a chat template where none is used.

    Args:
        options: Of a command; only ``chat_date`` counts.
        are_chats: Whether a conversation is asked for or given.

    Raises:
        UsageError: There is a date, and no conversation.
    """
    day = options.get("chat_date")
    if day is not None and not are_chats:
        raise UsageError(
            f"{option('chat_date', str(day))} is of use only to conversations, and there are none",
            hint=f"leave out {option('chat_date')}",
        )


def check_generate(prompts: Sequence[str] | None, options: GenerateOptions) -> GenerateOptions:
    """Refuse what cannot be generated.

    Args:
        prompts: What the text continues; None for those of a file, which the run will read.
        options: What else is asked.

    Returns:
        The options that are given, with the seed that was drawn where none was, and with the date of a chat,
        so that a rerun repeats the samples.

    Raises:
        ConjureError: A value is out of its bounds.
    """
    options = checked_options(options, GenerateOptions)
    refuse_needless_date(options, are_chats=bool(options.get("chat")))
    names = GenerationRequest.__dataclass_fields__
    values: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    request = GenerationRequest(prompts=prompts if prompts is not None else ("",), **values)
    if options.get("chat") and prompts is not None:
        refuse_empty_question(prompts)
    dated: GenerateOptions = {"chat_date": today()} if options.get("chat") else {}
    return {**dated, **options, "seed": request.seed}


def generate_spec(
    home: Home,
    prompt: str,
    model: str,
    options: GenerateOptions,
    *,
    prompt_file: str | Path | None = None,
    placeholders: Mapping[str, str] | None = None,
    description: str = "",
    labels: Sequence[str] = (),
) -> RunSpec:
    """The run that generates text.

    Args:
        prompt: What the text continues, exactly.
        model: Name, folder or resource.
        options: What else is asked.
        prompt_file: A file with a prompt on each line, in place of `prompt`.
        placeholders: Options whose values are texts with ``:NAME:`` in them, for the run's params.
        description: What the run is for.
        labels: Names to find it by.

    Raises:
        UsageError: The prompt cannot be an argument of the run's command.
        ConjureError: A resource or file is not there.
    """
    if prompt_file is None:
        _refuse_unrecordable(prompt)
    inputs = InputMounts(home)
    words = ["--model", inputs.model(model), "--output", SAMPLES_FILE]
    stop = [_escaped(text) for text in options.get("stop", ())]
    words += inputs.option_words(with_set_precision(home, {**options, "stop": stop}), placeholders)
    if prompt_file is not None:
        words += ["--prompt-file", inputs.data(str(prompt_file))]
    elif prompt:
        words += ["--", prompt]
    return conjure_command_spec("generate", words, inputs.mounts, description=description, labels=labels)


def _refuse_unrecordable(prompt: str) -> None:
    """Refuse a prompt that the command of a run would not be given as it is."""
    hint = f"write it to a line of a file, and use {option('prompt_file')}"
    if prompt == "-":
        raise UsageError(
            "the prompt '-' cannot be recorded: the run's command would read standard input", hint=hint
        )
    _refuse_long(prompt, "prompt", hint=f"if it has no line breaks, {hint}")


def _refuse_long(text: str, what: str, *, hint: str) -> None:
    size = len(text.encode(errors="replace"))  # of what stands for a byte that is not UTF-8, one
    if size > _LONGEST_ARGUMENT:
        raise UsageError(
            f"a recorded {what} has at most {_LONGEST_ARGUMENT:,} bytes; this one has {size:,}", hint=hint
        )


def _escaped(text: str) -> str:
    r"""A text as the command line takes it, which reads ``\n``, ``\t`` and ``\\`` as in Python."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def score_spec(
    home: Home,
    given: Sequence[str],
    models: Sequence[str],
    options: ScoreOptions,
    *,
    files: bool,
    placeholders: Mapping[str, str] | None = None,
    description: str = "",
    labels: Sequence[str] = (),
) -> RunSpec:
    """The run that scores text.

    Args:
        given: The text; or files, folders and resources.
        models: Name, folder or resource of the model, or of two models to compare.
        options: What else is asked.
        files: Whether `given` are names of files.
        placeholders: Options whose values are texts with ``:NAME:`` in them, for the run's params.
        description: What the run is for.
        labels: Names to find it by.

    Raises:
        ConjureError: A resource or file is not there, an option is of no use, or a text is too long.
    """
    if not files:
        refuse_needless_date(options, are_chats=False)
        for text in given:
            _refuse_long(text, "text", hint="save it to a file, and score that")
    inputs = InputMounts(home)
    named = [inputs.model(name) for name in models]
    words = ["--model", *named] if len(named) == 1 else ["--compare", *named]
    words += ["--output", FIGURES_FILE, *inputs.option_words(options, placeholders)]
    words += ["--", *map(inputs.data, given)] if files else ["--text", "--", *given]
    return conjure_command_spec("score", words, inputs.mounts, description=description, labels=labels)
