"""What a request for text has whichever route it came by: its fields, read and checked.

Main entries: `Call`, `read_settings`, `read_job`, `read_options`. Invariant: a field means the same on every
route, and its fault is told in the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from conjure.http.errors import HttpError, bad_value, shown
from conjure.http.generation.requests import GenerationJob
from conjure.http.generation.served_model import ServedModel
from conjure.lm.bounds import Bound, ValueFaultsError
from conjure.lm.generation.logit_adjustments import LogitSettings
from conjure.lm.generation.request import LARGEST_SEED, draw_seed
from conjure.lm.text.tokenizer import Tokenizer
from conjure.serve.fields import Fields

SAMPLES = Bound(1, 128, whole=True)
LOGPROBS = Bound(0, 20, whole=True)
_SEED = Bound(-(2**63), LARGEST_SEED, whole=True)
_MOST_STOPS, _LONGEST_STOP = 64, 1000
_MOST_BIASES = 1024

IGNORED = ("user", "metadata", "store", "service_tier")
SHARED = (
    "frequency_penalty", "ignore_eos", "logit_bias", "logprobs", "max_tokens", "min_p", "min_tokens", "model",
    "n", "presence_penalty", "repetition_penalty", "return_token_ids", "return_tokens_as_token_ids", "seed",
    "stop", "stop_token_ids", "stream", "stream_options", "temperature", "top_k", "top_p",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """How an answer is given.

    Attributes:
        stream: Whether it is a stream.
        include_usage: Whether the stream ends with the usage.
        return_token_ids: Whether it has the token ids.
        tokens_as_ids: Whether tokens are spelled ``token_id:N``.
    """

    stream: bool
    include_usage: bool
    return_token_ids: bool
    tokens_as_ids: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A checked request.

    Attributes:
        job: What to compute.
        options: How to answer.
    """

    job: GenerationJob
    options: AnswerOptions

    @property
    def logprobs(self) -> int | None:
        """How many of the likeliest tokens the answer tells; None leaves log-probabilities out."""
        return self.job.top_logprobs


def read_settings(fields: Fields, tokenizer: Tokenizer) -> LogitSettings:
    """How to choose tokens."""
    bounds = LogitSettings.BOUNDS
    top_p = fields.number("top_p", Bound(0, 1), 1.0)
    try:
        return LogitSettings(
            temperature=fields.number("temperature", bounds["temperature"], 1.0),
            top_p=top_p if top_p > 0 else 1e-12,  # 0: only the likeliest token
            top_k=max(0, fields.number("top_k", Bound(-1, whole=True), 0)),  # -1 is off, as 0 is
            min_p=fields.number("min_p", bounds["min_p"], 0.0),
            repetition_penalty=fields.number("repetition_penalty", bounds["repetition_penalty"], 1.0),
            presence_penalty=fields.number("presence_penalty", bounds["presence_penalty"], 0.0),
            frequency_penalty=fields.number("frequency_penalty", bounds["frequency_penalty"], 0.0),
            min_tokens=fields.number("min_tokens", bounds["min_tokens"], 0),
            logit_bias=_logit_bias(fields, tokenizer.vocab_size),
        )
    except ValueFaultsError as error:  # one that only shows itself in the settings
        raise bad_value(error.faults[0].name, error.faults[0].words) from error


def read_job(
    fields: Fields,
    tokenizer: Tokenizer,
    *,
    prompts: Sequence[Sequence[int]],
    settings: LogitSettings,
    samples: int,
    max_tokens: int,
    top_logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> GenerationJob:
    """What to compute: what the route has read already, and the fields that all read alike."""
    seed = fields.number("seed", _SEED, None)
    stop_ids = fields.ids("stop_token_ids", vocab_size=tokenizer.vocab_size, most=_MOST_BIASES)
    return GenerationJob(
        prompts=prompts,
        settings=settings,
        samples=samples,
        max_tokens=max_tokens,
        seed=seed if seed is not None else draw_seed(),
        stop=fields.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP),
        stop_token_ids=frozenset(stop_ids),
        ignore_eos=fields.flag("ignore_eos"),
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def read_options(fields: Fields) -> AnswerOptions:
    """How to answer."""
    stream, include_usage = _streaming(fields)
    return AnswerOptions(
        stream=stream,
        include_usage=include_usage,
        return_token_ids=fields.flag("return_token_ids"),
        tokens_as_ids=fields.flag("return_tokens_as_token_ids"),
    )


def check_min_tokens(settings: LogitSettings, max_tokens: int) -> None:
    """Refuse more tokens at least than at most."""
    if settings.min_tokens > max_tokens:
        raise bad_value("min_tokens", f"must be at most max_tokens ({max_tokens}), not {settings.min_tokens}")


def check_context(tokens: int, max_tokens: int, model: ServedModel, param: str) -> None:
    """Refuse a prompt that leaves no room for its text.

    Raises:
        HttpError: 400 with the code that clients look for.
    """
    if tokens + max_tokens > model.context_length:
        raise HttpError(
            400,
            f"the model's context is {model.context_length:,} tokens; a prompt has {tokens:,} and max_tokens"
            f" is {max_tokens:,}, {tokens + max_tokens:,} in total",
            param=param,
            code="context_length_exceeded",
        )


def _streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether to end the stream with the usage."""
    stream = fields.flag("stream")
    options = fields.value("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise bad_value("stream_options", "can only be given with stream")
    if not isinstance(options, dict):
        raise bad_value("stream_options", f"must be an object, not {shown(options)}")
    try:
        own = Fields(options, ("include_usage", "include_obfuscation"))
        own.flag("include_obfuscation")  # of OpenAI's own; there is nothing to hide here
        return True, own.flag("include_usage")
    except HttpError as error:
        raise bad_value("stream_options", f"is wrong: {error}") from error


def _logit_bias(fields: Fields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    value = fields.value("logit_bias")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise bad_value("logit_bias", f"must be an object of token ids and numbers, not {shown(value)}")
    if len(value) > _MOST_BIASES:
        raise bad_value(
            "logit_bias", f"contains {len(value):,} token ids; at most {_MOST_BIASES:,} are allowed"
        )
    biases = []
    for key, bias in value.items():
        token_id = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else vocab_size
        if token_id >= vocab_size:
            raise bad_value("logit_bias", f"contains {shown(key)}; token ids are from 0 to {vocab_size - 1}")
        if not LogitSettings.BIAS.allows(bias):
            raise bad_value("logit_bias", f"of {key} must be {LogitSettings.BIAS}, not {shown(bias)}")
        biases.append((token_id, float(bias)))
    return tuple(sorted(biases))
