"""The fields of ``POST /v1/completions``, read and checked.

Main entry: `read_completion_request`. Invariant: the names and defaults are OpenAI's and vLLM's; what is not
served is refused by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjure.errors import DataError
from conjure.http.errors import bad_value, shown
from conjure.http.generation.served_model import ServedModel
from conjure.lm.bounds import LARGEST_COUNT, Bound
from conjure.lm.text.tokenizer import Tokenizer
from conjure.serve.fields import Fields, checked_ids
from conjure.serve.generation_request import (
    IGNORED,
    LOGPROBS,
    SAMPLES,
    SHARED,
    Call,
    check_context,
    check_min_tokens,
    read_job,
    read_options,
    read_settings,
)

KNOWN = (*SHARED, "best_of", "echo", "prompt", "prompt_logprobs", "suffix", "truncate_prompt_tokens")
_MOST_ROWS = 256  # texts, and prompts, of one request
_MOST_PROMPT_LOGPROBS = 1 << 20  # in one answer, which takes some hundred bytes of memory for each
_COUNT = Bound(0, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall(Call):
    """A checked request.

    Attributes:
        prompt_texts: The prompts as text, for `echo`.
        n: Texts to answer with for each prompt; the job may write more, of which the best are taken.
        echo: Whether prompts stand before their texts.
        prompt_logprobs: As `logprobs`, of the prompts' own tokens.
    """

    prompt_texts: tuple[str, ...]
    n: int
    echo: bool
    prompt_logprobs: int | None


def read_completion_request(body: Mapping[str, Any], model: ServedModel) -> CompletionCall:
    """Check a request for a model.

    Raises:
        HttpError: 400, with the field that is wrong.
    """
    fields = Fields(body, KNOWN, IGNORED)
    if fields.value("suffix"):
        raise bad_value("suffix", "is not supported: the models can only continue a text")
    settings = read_settings(fields, model.tokenizer)
    n = fields.number("n", SAMPLES, 1)
    best_of = fields.number("best_of", SAMPLES, n)
    options = read_options(fields)
    if best_of < n:
        raise bad_value("best_of", f"must be at least n ({n}), not {best_of}")
    if options.stream and best_of > n:
        raise bad_value("best_of", "above n cannot be streamed")
    echo, logprobs = fields.flag("echo"), fields.number("logprobs", LOGPROBS, None)
    prompt_logprobs = fields.number("prompt_logprobs", LOGPROBS, None)
    max_tokens = fields.number("max_tokens", _COUNT, 16)
    if max_tokens == 0 and not (echo or prompt_logprobs is not None):
        raise bad_value("max_tokens", "can only be 0 with echo or prompt_logprobs")
    check_min_tokens(settings, max_tokens)
    forms = _forms(fields.value("prompt"), model.tokenizer)
    _check_rows(fields, len(forms), best_of)
    prompts, texts = _prompts(fields, forms, model, max_tokens)
    job = read_job(
        fields,
        model.tokenizer,
        prompts=prompts,
        settings=settings,
        samples=best_of,
        max_tokens=max_tokens,
        top_logprobs=logprobs,
        prompt_logprobs=_prompt_scores(logprobs if echo else None, prompt_logprobs, prompts, n),
    )
    return CompletionCall(
        job=job, options=options, prompt_texts=texts, n=n, echo=echo, prompt_logprobs=prompt_logprobs
    )


def _check_rows(fields: Fields, prompts: int, samples: int) -> None:
    """Refuse a request for more texts than one may ask for."""
    if prompts > _MOST_ROWS:
        raise bad_value("prompt", f"contains {prompts:,} prompts; at most {_MOST_ROWS} are allowed")
    if prompts * samples > _MOST_ROWS:
        raise bad_value(
            "best_of" if fields.given("best_of") else "n",
            f"makes {prompts * samples} texts of {prompts} prompts; at most {_MOST_ROWS} are allowed",
        )


def _prompt_scores(
    echoed: int | None, prompt_logprobs: int | None, prompts: Sequence[Sequence[int]], n: int
) -> int | None:
    """How many of the likeliest tokens to tell of each token of the prompts; None scores them not at all."""
    top = max((each for each in (echoed, prompt_logprobs) if each is not None), default=None)
    told = 0 if top is None else sum(map(len, prompts)) * n * max(1, top)
    if told > _MOST_PROMPT_LOGPROBS:
        raise bad_value(
            "logprobs" if prompt_logprobs is None else "prompt_logprobs",
            f"makes {told:,} log-probabilities of prompts; at most {_MOST_PROMPT_LOGPROBS:,} are allowed",
        )
    return top


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
            "prompt",
            f"must be a string, or a list of strings, token ids or lists of token ids, not {shown(value)}",
        )
    if all(isinstance(each, str) for each in value):
        return value
    size, most = tokenizer.vocab_size, LARGEST_COUNT
    if not any(isinstance(each, list) for each in value):
        return [checked_ids("prompt", value, vocab_size=size, most=most)]
    lists = [checked_ids("prompt", each, vocab_size=size, most=most) for each in value]
    if not all(lists):
        raise bad_value("prompt", "contains an empty list of token ids")
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
