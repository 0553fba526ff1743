"""The fields of ``POST /v1/completions``, read and checked.

Main entry: `read_completion_call`. Invariant: the names and defaults are OpenAI's and vLLM's; what is not
served is refused by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjure.errors import DataError
from conjure.http.errors import HttpError, bad_value, shown
from conjure.http.generation.requests import GenerationJob
from conjure.http.generation.served_model import ServedModel
from conjure.lm.bounds import Bound, ValueFaultsError
from conjure.lm.generation.logit_adjustments import LogitSettings
from conjure.lm.generation.request import LARGEST_SEED, draw_seed
from conjure.lm.text.tokenizer import Tokenizer
from conjure.serve.fields import Fields, checked_ids

MOST_ROWS = 256  # texts, and prompts, of one request
MOST_LOGPROBS = 20
_MOST_STOPS, _LONGEST_STOP = 64, 1000
_MOST_BIASES = 1024
_LARGEST_COUNT = 2**31 - 1
_COUNT = Bound(0, whole=True)
SAMPLES = Bound(1, 128, whole=True)
_LOGPROBS = Bound(0, MOST_LOGPROBS, whole=True)
SEED = Bound(-(2**63), LARGEST_SEED, whole=True)

IGNORED = ("user", "metadata", "store", "service_tier")
SAMPLING = (
    "frequency_penalty", "ignore_eos", "logit_bias", "max_tokens", "min_p", "min_tokens", "n",
    "presence_penalty", "repetition_penalty", "return_token_ids", "return_tokens_as_token_ids", "seed",
    "stop", "stop_token_ids", "stream", "stream_options", "temperature", "top_k", "top_p",
    "truncate_prompt_tokens",
)  # fmt: skip
KNOWN = (*SAMPLING, "best_of", "echo", "logprobs", "model", "prompt", "prompt_logprobs", "suffix")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """A checked request.

    Attributes:
        job: What to compute.
        prompt_texts: The prompts as text, for `echo`.
        n: Texts to answer with for each prompt; the job may write more, of which the best are taken.
        echo: Whether prompts stand before their texts.
        logprobs: How many of the likeliest tokens the answer tells; None leaves log-probabilities out.
        prompt_logprobs: Likewise for `prompt_logprobs`.
        stream: Whether the answer is a stream.
        include_usage: Whether the stream ends with the usage.
        return_token_ids: Whether the answer has the token ids.
        tokens_as_ids: Whether tokens are spelled ``token_id:N``.
    """

    job: GenerationJob
    prompt_texts: tuple[str, ...]
    n: int
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None
    stream: bool
    include_usage: bool
    return_token_ids: bool
    tokens_as_ids: bool


def read_completion_call(body: Mapping[str, Any], model: ServedModel) -> CompletionCall:
    """Check a request for a model.

    Raises:
        HttpError: 400, with the field that is wrong.
    """
    fields = Fields(body, KNOWN, IGNORED)
    if fields.value("suffix"):
        raise bad_value("suffix", "is not served: the models here only continue texts")
    settings = read_settings(fields, model.tokenizer)
    n = fields.number("n", SAMPLES, 1)
    best_of = fields.number("best_of", SAMPLES, n)
    stream, include_usage = read_streaming(fields)
    if best_of < n:
        raise bad_value("best_of", f"is {best_of}; it must be at least n, {n}")
    if stream and best_of > n:
        raise bad_value("best_of", "above n cannot be streamed")
    echo, logprobs = fields.flag("echo"), fields.number("logprobs", _LOGPROBS, None)
    prompt_logprobs = fields.number("prompt_logprobs", _LOGPROBS, None)
    max_tokens = fields.number("max_tokens", _COUNT, 16)
    if max_tokens == 0 and not (echo or prompt_logprobs is not None):
        raise bad_value("max_tokens", "can only be 0 with echo or prompt_logprobs")
    check_min_tokens(settings, max_tokens)
    forms = _forms(fields.value("prompt"), model.tokenizer)
    _check_rows(fields, len(forms), best_of)
    prompts, texts = _prompts(fields, forms, model, max_tokens)
    scores = [logprobs] if echo and logprobs is not None else []
    scores += [prompt_logprobs] if prompt_logprobs is not None else []
    job = GenerationJob(
        prompts=prompts,
        settings=settings,
        samples=best_of,
        max_tokens=max_tokens,
        seed=fields.number("seed", SEED, None) if fields.given("seed") else draw_seed(),
        stop=read_stop(fields),
        stop_token_ids=read_stop_ids(fields, model.tokenizer),
        ignore_eos=fields.flag("ignore_eos"),
        top_logprobs=logprobs,
        prompt_logprobs=max(scores, default=None),
    )
    return CompletionCall(
        job=job,
        prompt_texts=texts,
        n=n,
        echo=echo,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        stream=stream,
        include_usage=include_usage,
        return_token_ids=fields.flag("return_token_ids"),
        tokens_as_ids=fields.flag("return_tokens_as_token_ids"),
    )


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


def read_streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether to end the stream with the usage."""
    stream = fields.flag("stream")
    options = fields.value("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise bad_value("stream_options", "can only be given with stream")
    if not isinstance(options, dict):
        raise bad_value("stream_options", f"is {shown(options)}; it must be an object")
    try:
        own = Fields(options, ("include_usage", "include_obfuscation"))
        own.flag("include_obfuscation")  # of OpenAI's own; there is nothing to hide here
        return True, own.flag("include_usage")
    except HttpError as error:
        raise bad_value("stream_options", f"is wrong: {error}") from error


def read_stop(fields: Fields) -> tuple[str, ...]:
    """Stop strings."""
    return fields.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP)


def read_stop_ids(fields: Fields, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a text."""
    return frozenset(fields.ids("stop_token_ids", vocab_size=tokenizer.vocab_size, most=_MOST_BIASES))


def check_min_tokens(settings: LogitSettings, max_tokens: int) -> None:
    """Refuse more tokens at least than at most."""
    if settings.min_tokens > max_tokens:
        raise bad_value(
            "min_tokens", f"is {settings.min_tokens}; it must be at most max_tokens, {max_tokens}"
        )


def check_context(tokens: int, max_tokens: int, model: ServedModel, param: str) -> None:
    """Refuse a prompt that leaves no room for its text.

    Raises:
        HttpError: 400 with the code that clients look for.
    """
    if tokens + max_tokens > model.context_length:
        raise HttpError(
            400,
            f"the model's context is {model.context_length:,} tokens; a prompt has {tokens:,} and max_tokens"
            f" is {max_tokens:,}, {tokens + max_tokens:,} in all",
            param=param,
            code="context_length_exceeded",
        )


def _logit_bias(fields: Fields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    value = fields.value("logit_bias")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise bad_value("logit_bias", f"is {shown(value)}; it must be an object of token ids and numbers")
    if len(value) > _MOST_BIASES:
        raise bad_value("logit_bias", f"holds {len(value):,} token ids; at most {_MOST_BIASES:,} are allowed")
    biases = []
    for key, bias in value.items():
        token_id = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else vocab_size
        if token_id >= vocab_size:
            raise bad_value("logit_bias", f"holds {shown(key)}; token ids are from 0 to {vocab_size - 1}")
        if not LogitSettings.BIAS.allows(bias):
            raise bad_value("logit_bias", f"of {key} is {shown(bias)}; it must be {LogitSettings.BIAS}")
        biases.append((token_id, float(bias)))
    return tuple(sorted(biases))


def _check_rows(fields: Fields, prompts: int, samples: int) -> None:
    """Refuse a request for more texts than one may ask for."""
    if prompts > MOST_ROWS:
        raise bad_value("prompt", f"holds {prompts:,} prompts; at most {MOST_ROWS} are allowed")
    if prompts * samples > MOST_ROWS:
        raise bad_value(
            "best_of" if fields.given("best_of") else "n",
            f"makes {prompts * samples} texts of {prompts} prompts; at most {MOST_ROWS} are allowed",
        )


def _prompts(
    fields: Fields, forms: Sequence[str | list[int]], model: ServedModel, max_tokens: int
) -> tuple[tuple[list[int], ...], tuple[str, ...]]:
    """Token ids and text of each prompt."""
    most = fields.number("truncate_prompt_tokens", Bound(-1, model.context_length, whole=True), None)
    if most == 0:
        raise bad_value("truncate_prompt_tokens", "is 0; a prompt needs at least one token")
    kept = model.context_length - max_tokens if most == -1 else most
    prompts, texts = [], []
    for form in forms:
        text = form if isinstance(form, str) else None
        ids = encode_prompt(form, model.tokenizer) if isinstance(form, str) else form
        ids = ids or [model.tokenizer.start_id]
        if kept is not None and len(ids) > max(1, kept):
            ids, text = ids[-max(1, kept) :], None
        check_context(len(ids), max_tokens, model, "prompt")
        prompts.append(ids)
        texts.append(text if text is not None else model.tokenizer.decode(ids))
    return tuple(prompts), tuple(texts)


def _forms(value: Any, tokenizer: Tokenizer) -> list[str | list[int]]:
    """Each prompt of a request as it was given: a text or ids."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise bad_value(
            "prompt", f"is {shown(value)}; it must be a text, a list of texts, ids or lists of ids"
        )
    if all(isinstance(each, str) for each in value):
        return value
    size, most = tokenizer.vocab_size, _LARGEST_COUNT
    if not any(isinstance(each, list) for each in value):
        return [checked_ids("prompt", value, vocab_size=size, most=most)]
    lists = [checked_ids("prompt", each, vocab_size=size, most=most) for each in value]
    if not all(lists):
        raise bad_value("prompt", "holds an empty list of ids")
    return list(lists)


def encode_prompt(text: str, tokenizer: Tokenizer, *, with_start: bool = True) -> list[int]:
    """The ids of a text; one that is nothing but a special token's spelling is that token.

    Special tokens that are written inside a longer text are ordinary characters: no text can forge one.

    Raises:
        HttpError: It is no text that can be encoded.
    """
    if text in tokenizer.special_tokens:
        return [tokenizer.special_tokens[text]]
    try:
        return [*(tokenizer.start_ids if with_start else ()), *tokenizer.encode(text)]
    except DataError as error:
        raise bad_value("prompt", f"cannot be encoded: {error}") from error
