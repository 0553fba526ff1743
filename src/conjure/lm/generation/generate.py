"""From prompts to text: one batch of rows, each with its own randomness, until every row has ended.

Main entries: `generate` for finished samples, `stream` for tokens as they come.
Invariant: in float32 a sample is a function of (model, its prompt, settings, seed, its index): alone, in a
batch, beside other prompts or in another order it comes out the same (`sample` states the bound).

When prompt and text outgrow the model's context, the window slides: whenever a row's window is full, the row
is read again from its last ``context_length // 2`` tokens. What is remembered of a token depends on all those
before it, and with learned positions on where it stood, so only reading again gives what the rest alone
would; half a context keeps the cost per token constant, and leaves the model at least that much to go on. A
prompt longer than the context is first read from its last ``context_length // 2`` tokens, by the same rule.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Literal

import torch
from torch import Tensor

from conjure.errors import ContextLengthError, ModelError
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.engines.cuda_graph import torch_engine
from conjure.lm.generation.request import GenerationRequest, Prompt, prompt_text
from conjure.lm.generation.sampling import random_stream, sample_tokens
from conjure.lm.generation.stop_strings import StopMatcher
from conjure.lm.models.base import CausalLM
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer

FinishReason = Literal["end_of_text", "stop", "length"]

_CACHE_BYTES = 1 << 30  # of keys and values in one batch; more rows go in a second one
_MOST_ROWS = 128  # a CPU's matrix units are busy well before this
_CROWDED = 0.75  # finished rows leave once fewer than this share still write: leaving copies the cache


@dataclass(frozen=True, slots=True)
class Token:
    """One token a sample has just chosen.

    Attributes:
        prompt_index: Which of the request's prompts.
        index: Which sample of that prompt.
        token_id: The token.
        logprob: Its log-probability under the model's own distribution, before any setting changed it, nats.
        text: Characters that are now sure to be part of the sample's text: whole ones, perhaps none, and
            perhaps some of earlier tokens, held back while they might have begun a stop string.
    """

    prompt_index: int
    index: int
    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished sample.

    Attributes:
        prompt: What it goes on from.
        prompt_index: Which of the request's prompts that is.
        index: Which sample of that prompt.
        text: What was written, without the prompt, an end-of-text token or a stop string.
        token_ids: Every token chosen, without the prompt; an end-of-text token and those of a stop string
            included.
        logprobs: Log-probability of each under the model's own distribution, before any setting changed it,
            nats.
        finish_reason: ``end_of_text``: the model ended it. ``stop``: a stop string appeared. ``length``:
            `max_new_tokens` were written.
        seed: The request's.
    """

    prompt: str
    prompt_index: int
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    seed: int


def generate(model: CausalLM, tokenizer: Tokenizer, request: GenerationRequest) -> list[Sample]:
    """Write all samples of a request; by prompt, then by index.

    Raises:
        ContextLengthError: A prompt does not fit and `on_overflow` is ``error``.
        ModelError: The model's logits are not numbers.
    """
    events = stream(torch_engine(model), tokenizer, request)
    samples = [event for event in events if isinstance(event, Sample)]
    return sorted(samples, key=lambda sample: (sample.prompt_index, sample.index))


def stream(engine: Engine, tokenizer: Tokenizer, request: GenerationRequest) -> Iterator[Token | Sample]:
    """Write all samples of a request: each token as it is chosen, and each sample when it has ended.

    Args:
        engine: What runs the model.
        tokenizer: The model's own.
        request: What to write.

    Raises:
        ContextLengthError: A prompt does not fit and `on_overflow` is ``error``; before anything is written.
        ModelError: The model's logits are not numbers.
    """
    prompts = encode_prompts(tokenizer, request.prompts)
    if request.on_overflow == "error":
        _refuse_overflow(prompts, request, engine.context_length)
    for rows in _batches(prompts, engine, tokenizer, request):
        yield from _write(rows, engine, request, tokenizer)


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of each prompt, at least one: what a document starts from, where there is nothing else."""
    texts = iter(tokenizer.encode_batch([prompt for prompt in prompts if isinstance(prompt, str)]))
    return [
        ([*tokenizer.start_ids, *next(texts)] or [tokenizer.start_id])
        if isinstance(prompt, str)
        else [*prompt.ids]
        for prompt in prompts
    ]


def exceeds_context(prompt_tokens: int, request: GenerationRequest, context_length: int) -> bool:
    """Whether a prompt of so many tokens and its text do not fit the context together."""
    return prompt_tokens + request.max_new_tokens > context_length


class _Row:
    """One sample while it is being written."""

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        prompt_index: int,
        index: int,
    ) -> None:
        self.prompt_index, self.index, self.prompt_ids = prompt_index, index, prompt_ids
        self.stream = random_stream(request.seed, index)
        self.finish_reason: FinishReason | None = None
        self._request = request
        self._end_ids = tokenizer.end_ids
        continues = prompt_ids != [tokenizer.start_id]
        self._decoder = IncrementalDecoder(tokenizer, continues=continues)
        self._matcher = StopMatcher(request.stop)
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._text: list[str] = []

    def take(self, token_id: int, logprob: float) -> Token:
        """Add the token just chosen, and end the row if that ends it."""
        self._token_ids.append(token_id)
        self._logprobs.append(logprob)
        text = ""
        if token_id in self._end_ids:
            self.finish_reason = "end_of_text"
        else:
            text = self._matcher.feed(self._decoder.feed(token_id))
            if len(self._token_ids) == self._request.max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._matcher.feed(self._decoder.flush()) + self._matcher.flush()
        if self._matcher.stopped:
            self.finish_reason = "stop"
        self._text.append(text)
        return Token(self.prompt_index, self.index, token_id, logprob, text)

    def sample(self) -> Sample:
        assert self.finish_reason is not None, "the row is still being written"
        return Sample(
            prompt=prompt_text(self._request.prompts[self.prompt_index]),
            prompt_index=self.prompt_index,
            index=self.index,
            text="".join(self._text),
            token_ids=self._token_ids,
            logprobs=self._logprobs,
            finish_reason=self.finish_reason,
            seed=self._request.seed,
        )


def _refuse_overflow(prompts: list[list[int]], request: GenerationRequest, context_length: int) -> None:
    tokens = max(map(len, prompts))
    room = context_length - tokens
    if exceeds_context(tokens, request, context_length):
        first = f"generate at most {room:,} tokens" if room > 0 else "shorten the prompt"
        raise ContextLengthError(
            f"a prompt of {tokens:,} and {request.max_new_tokens:,} new tokens make "
            f"{tokens + request.max_new_tokens:,}, more than the model's context of {context_length:,}",
            hint=f"{first}, or let the window slide (on_overflow slide)",
        )


def _batches(
    prompts: list[list[int]], engine: Engine, tokenizer: Tokenizer, request: GenerationRequest
) -> Iterator[list[_Row]]:
    """All rows, in batches that fit in memory, with prompts of like length together.

    Rows that will outgrow the context share a batch only with prompts of their own length: then they all
    slide at once, each as it would alone.
    """
    context = engine.context_length

    def kind(prompt_index: int) -> int:
        length = len(prompts[prompt_index])
        return length if exceeds_context(length, request, context) else 0

    order = sorted(range(len(prompts)), key=lambda prompt_index: len(prompts[prompt_index]))
    for _, group in groupby(order, key=kind):
        members = list(group)
        columns = min(context, len(prompts[members[-1]]) + request.max_new_tokens)
        most = min(_MOST_ROWS, max(1, _CACHE_BYTES // (columns * engine.bytes_per_token)))
        pairs = ((prompt_index, index) for prompt_index in members for index in range(request.num_samples))
        while chunk := list(islice(pairs, most)):
            yield [_Row(request, tokenizer, prompts[pair[0]], *pair) for pair in chunk]


def _write(
    rows: list[_Row], engine: Engine, request: GenerationRequest, tokenizer: Tokenizer
) -> Iterator[Token | Sample]:
    """Write one batch of rows to their ends; ids that no token has are never chosen."""
    width = max(len(row.prompt_ids) for row in rows)
    history = torch.tensor([[-1] * (width - len(row.prompt_ids)) + row.prompt_ids for row in rows])  # (R, T)
    logits = _read_prompts(engine, history, request.max_new_tokens)  # (R, V)
    history = history.to(logits.device)
    streams = torch.tensor([row.stream for row in rows], device=logits.device)
    without_token = torch.tensor(tokenizer.ids_without_token(logits.shape[1]), device=logits.device)
    for step in range(request.max_new_tokens):
        logsumexp, argmax = engine.summarise(logits)  # (R, 1), (R,)
        _refuse_what_is_no_number(logsumexp)
        usable = logits.index_fill(1, without_token, -math.inf) if len(without_token) else logits
        if request.takes_likeliest:
            chosen = usable.argmax(1) if len(without_token) else argmax
        else:
            chosen = sample_tokens(usable, history, streams, torch.full_like(streams, step), request)  # (R,)
        logprobs = (logits.gather(1, chosen[:, None]) - logsumexp).squeeze(1)
        for row, token_id, logprob in zip(rows, chosen.tolist(), logprobs.tolist(), strict=True):
            if row.finish_reason is None:
                yield row.take(token_id, logprob)
                if row.finish_reason is not None:
                    yield row.sample()
        history = torch.cat([history, chosen[:, None]], 1)
        writing = [number for number, row in enumerate(rows) if row.finish_reason is None]
        if not writing:
            return
        if len(writing) < _CROWDED * len(rows):
            kept = torch.tensor(writing, device=logits.device)
            engine.select(kept)
            rows, streams, history = [rows[number] for number in writing], streams[kept], history[kept]
        if engine.length < engine.context_length:
            logits = engine.step(history[:, -1])
        else:
            logits = _read(engine, history, request.max_new_tokens - step - 1)
    raise AssertionError("every row ends at max_new_tokens")


def _read_prompts(engine: Engine, history: Tensor, max_new_tokens: int) -> Tensor:
    """Read each prompt once, however many rows begin with it; logits of all rows, (R, V)."""
    prompts, prompt_of_row = history.unique_consecutive(return_inverse=True, dim=0)
    logits = _read(engine, prompts, max_new_tokens)
    if len(prompts) == len(history):
        return logits
    engine.select(prompt_of_row)
    return logits[prompt_of_row.to(logits.device)]


def _read(engine: Engine, history: Tensor, max_new_tokens: int) -> Tensor:
    """Read rows afresh, only their last half context where they do not fit; logits (R, V)."""
    context = engine.context_length
    if history.shape[1] > context:
        history = history[:, -max(1, context // 2) :]
    pad = (history < 0).sum(1)
    # The last token that is written is never read.
    capacity = min(context, history.shape[1] + max_new_tokens - 1)
    return engine.prefill(history.clamp(min=0), pad, capacity)


def _refuse_what_is_no_number(logsumexp: Tensor) -> None:
    if not all(math.isfinite(normaliser) for normaliser in logsumexp.flatten().tolist()):
        raise ModelError(
            "the model's logits are not numbers (NaN or infinity): its weights are too large for this number"
            " format, or damaged"
        )
