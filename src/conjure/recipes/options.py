"""The options of the recorded commands, typed, and the words of the command line that they stand for.

Main entries: `FinetuneOptions`, `GenerateOptions`, `ScoreOptions`, `checked_options`, `option_words`,
`parse_options`. Invariant: an option that is not given is not written; so a run records what was asked, and
defaults stay defaults.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args, get_origin, get_type_hints

from conjure.core.text import did_you_mean
from conjure.errors import UsageError, option

NAMING_DATA = ("adapter", "validation")  # options whose values are files, folders or resources
ONE_MOUNT = "its files are mounted once, for all trials"
ONE_PLACE = "all trials run in the same place, with the same resources and retries"
# Options that all trials of a sweep share, and why.
SHARED_BY_TRIALS = {
    **dict.fromkeys(NAMING_DATA, ONE_MOUNT),
    **dict.fromkeys(("distributed", "nodes"), ONE_PLACE),
}
# May be ``auto``.
AUTOMATIC = ("block_size", "learning_rate", "dropout", "eval_every", "save_every", "sample_every")
# Flags that may be on if nothing is said.
_NEGATED = {"header": "--no-header", "mask_records": "--no-mask-records"}
_SPELLED = {"max_new_tokens": "--length"}

_OptionsT = TypeVar("_OptionsT", bound=Mapping[str, object])


class ReadingOptions(TypedDict, total=False):
    """How text is read; see `conjure.lm.text.read_options.ReadOptions`."""

    column: str
    """Column of tables that holds the text."""
    split: Literal["lines", "paragraphs"]
    """Cut text files into records."""
    format: str
    """File format, whatever the files' names end in."""
    delimiter: str
    """What separates columns."""
    header: bool
    """Whether the first row names the columns."""
    quoting: Literal["auto", "standard", "none"]
    """Whether fields may be in quotes."""
    encoding: str
    """Of text files without a byte order mark."""


class FinetuneOptions(ReadingOptions, total=False):
    """The options of ``conjure finetune``; see `conjure.lm.training.request.FinetuneRequest` for each."""

    special_tokens: Literal["text", "token"]
    holdout: float
    validation: str | Path
    prompt_loss_weight: float
    chat_date: str | date
    dedup: Literal["keep", "drop", "weight"]
    epochs: float
    batch_size: int
    block_size: int
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    dropout: float
    attention_dropout: float
    grad_accumulation: int
    distributed: int
    nodes: int
    mask_records: bool
    patience: int
    seed: int
    precision: Literal["auto", "float32", "bfloat16"]
    freeze: int
    lora: int
    lora_output: Literal["merged", "adapter"]
    adapter: str | Path
    max_steps: int
    eval_every: int
    save_every: int
    sample_every: int


class GenerateOptions(TypedDict, total=False):
    """The options of ``conjure generate``; see `conjure.lm.generation.request.GenerationRequest` for each."""

    max_new_tokens: int
    num_samples: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram: int
    stop: Sequence[str]
    seed: int
    on_overflow: Literal["slide", "error"]
    precision: Literal["auto", "float32", "bfloat16", "int8"]
    logprobs: bool
    chat: bool
    """Whether the prompt is asked as a question, by the model's chat template."""
    chat_date: str | date
    """What the chat template gets when it asks for the date."""
    adapter: str | Path
    """A PEFT folder whose LoRA weights to merge into the model."""


class ScoreOptions(ReadingOptions, total=False):
    """The options of ``conjure score``."""

    context: int
    """Context length in tokens."""
    stride: int
    """Tokens from one window to the next."""
    chat_date: str | date
    """What the chat template gets when it asks for the date."""
    adapter: str | Path
    """A PEFT folder whose LoRA weights to merge into the model."""
    precision: Literal["float32", "bfloat16"]
    """Number format; ``float32`` is exact."""
    per_token: bool
    """Whether the log-probability of each token is kept."""


class ServeOptions(TypedDict, total=False):
    """What ``conjure serve`` takes beside its models and keys."""

    host: str
    """Address to listen on."""
    port: int
    """Port to listen on; 0 takes a free one."""
    allow_host: Sequence[str]
    """Host names to answer for, beside this machine's own."""
    precision: str
    """Number format."""
    slots: int
    """Texts generated at once, for each model."""
    queue: int
    """Requests that may wait."""
    log_prompts: bool
    """Whether the bodies of requests are logged."""


def refuse_unknown(options: Mapping[str, object], known: type) -> None:
    """Refuse options that a command does not have: the type checker does so, but nothing else would.

    Raises:
        UsageError: There is one.
    """
    names = list(known.__annotations__)
    for name in options:
        if name not in names:
            raise UsageError(
                f"there is no option {name!r}",
                hint=did_you_mean(name, names) or f"allowed: {', '.join(names)}",
            )


def checked_options(options: _OptionsT, known: type) -> _OptionsT:
    """The options of a command that are given: None is as good as not given.

    Args:
        options: By their names in Python.
        known: The `TypedDict` of the command.

    Raises:
        UsageError: The command does not have an option, or the option does not have that value.
    """
    refuse_unknown(options, known)
    given = {name: value for name, value in options.items() if value is not None}
    kinds = get_type_hints(known)
    faults = [fault for name, value in given.items() if (fault := _word_fault(name, kinds[name], value))]
    if faults:
        raise UsageError("; ".join(faults))
    return cast("_OptionsT", given)


def _word_fault(name: str, kind: Any, value: object) -> str | None:
    """What is wrong with a value of an option that takes certain words only."""
    if get_origin(kind) is not Literal or value in get_args(kind):
        return None
    return f"{option(name)} is {value!r}; allowed: {', '.join(get_args(kind))}"


def parse_options(texts: Mapping[str, str], known: type) -> dict[str, Any]:
    """Options from texts, read as the command line does; one that is ``auto`` is as good as not given.

    Args:
        texts: Values by the names of the options.
        known: The `TypedDict` of a command.

    Raises:
        UsageError: A text is no such value, or the option is a flag, which has none.
    """
    kinds = get_type_hints(known)
    given = {name: text for name, text in texts.items() if text != "auto" or name not in AUTOMATIC}
    return {name: _read(name, kinds[name], text) for name, text in given.items()}


def _read(name: str, kind: Any, text: str) -> Any:
    if kind is bool:
        raise UsageError(f"{option(name)} is a flag and cannot be a parameter", hint="start a sweep for each")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError as error:
            allowed = "an integer" if kind is int else "a number"
            raise UsageError(f"{option(name)} must be {allowed}, not {text!r}") from error
    fault = _word_fault(name, kind, text)
    if fault is not None:
        raise UsageError(fault)
    return text


def option_words(options: Mapping[str, object]) -> list[str]:
    """Options as words of the command line; None is as good as not given.

    Args:
        options: By their names in Python. A text is written as it is.
    """
    words: list[str] = []
    for name, value in options.items():
        flag = _SPELLED.get(name, f"--{name.replace('_', '-')}")
        if isinstance(value, bool):
            words += _flag_words(name, flag, on=value)
        elif isinstance(value, list | tuple):
            words += [f"{flag}={one}" for one in value]
        elif value is not None:
            words.append(f"{flag}={value}")
    return words


def _flag_words(name: str, flag: str, *, on: bool) -> list[str]:
    if name in _NEGATED:
        return [flag if on else _NEGATED[name]]
    return [flag] if on else []
