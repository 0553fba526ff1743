"""From prompts to text: rows of tokens, each with its own randomness, until every row has ended.

Main entries: `generate` for finished samples, `stream` for tokens as they come, `Generation` for what there
is when that is broken off, `Batch` for samples that are written together. Invariant: a sample is a function
of (model, its prompt, settings, seed, its index): alone, in a batch, beside other prompts or in another order
it comes out the same. With the native engine that holds bit for bit, with torch in float32 for the text
(`sampling` states the bound).

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
from typing import TYPE_CHECKING, Literal

import numpy as np

from conjure.errors import ContextLengthError, option
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.request import GenerationRequest, prompt_text
from conjure.lm.generation.sampling import no_numbers, random_stream, sample_tokens
from conjure.lm.generation.stop_strings import StopMatcher
from conjure.lm.native.logits import logit_summary
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer

if TYPE_CHECKING:
    from conjure.lm.models.base import CausalLM

FinishReason = Literal["end_of_text", "stop", "length", "interrupted"]

_CACHE_BYTES = 1 << 30  # of keys and values in one batch; more rows go in a second one
_MOST_ROWS = 128  # a CPU's matrix units are busy well before this
_WHOLE = 1 << 20  # where nobody waits, prompts are read in as large pieces as the engine likes


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
            `max_new_tokens` were written. ``interrupted``: it was left before its end.
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


def generate(model: "CausalLM", tokenizer: Tokenizer, request: GenerationRequest) -> list[Sample]:
    """Write all samples of a request; by prompt, then by index.

    Raises:
        ContextLengthError: A prompt does not fit and `on_overflow` is ``error``.
        ModelError: The model's logits are not numbers.
    """
    # Who writes with another engine does not pay for torch.
    from conjure.lm.generation.engines.cuda_graph import torch_engine

    generation = Generation(torch_engine(model), tokenizer, request)
    for _ in generation:
        pass
    return generation.samples


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
    return iter(Generation(engine, tokenizer, request))


class Generation:
    """A request on its way: iterating writes it, and what is written so far can be had at any time.

    Args:
        engine: What runs the model.
        tokenizer: The model's own.
        request: What to write.

    Raises:
        ContextLengthError: A prompt does not fit and `on_overflow` is ``error``.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, request: GenerationRequest) -> None:
        self._engine, self._tokenizer, self._request = engine, tokenizer, request
        self._prompts = encode_prompts(tokenizer, request, engine.context_length)
        self._begun: list[PartialSample] = []

    def __iter__(self) -> Iterator[Token | Sample]:
        """Each token as it is chosen, and each sample when it has ended.

        Raises:
            ModelError: The model's logits are not numbers.
        """
        batch = Batch(self._engine, self._tokenizer)
        for samples in _batches(self._prompts, self._engine, self._tokenizer, self._request):
            self._begun += samples
            batch.add(samples)
            while batch.samples:
                for sample, token in batch.step():
                    yield token
                    if sample.finish_reason is not None:
                        yield sample.sample()

    @property
    def samples(self) -> list[Sample]:
        """What is written so far, by prompt, then by index; samples without a token are left out."""
        written = [partial.sample() for partial in self._begun if partial.token_ids]
        return sorted(written, key=lambda sample: (sample.prompt_index, sample.index))


def encode_prompts(tokenizer: Tokenizer, request: GenerationRequest, context_length: int) -> list[list[int]]:
    """The ids that each prompt of a request begins with.

    Raises:
        ContextLengthError: One does not fit and `on_overflow` is ``error``.
    """
    texts = iter(tokenizer.encode_batch([prompt for prompt in request.prompts if isinstance(prompt, str)]))
    prompts = [
        tokenizer.prompt_ids(next(texts)) if isinstance(prompt, str) else [*prompt.ids]
        for prompt in request.prompts
    ]
    if request.on_overflow == "error":
        _refuse_overflow(prompts, request, context_length)
    return prompts


def exceeds_context(prompt_tokens: int, request: GenerationRequest, context_length: int) -> bool:
    """Whether a prompt of so many tokens and its text do not fit the context together."""
    return prompt_tokens + request.max_new_tokens > context_length


class PartialSample:
    """One sample while it is being written.

    Attributes:
        request: What is asked for.
        prompt_ids: The tokens it goes on from.
        prompt_index: Which of the request's prompts that is.
        index: Which sample of that prompt.
        stream: Its randomness.
        token_ids: The tokens chosen so far.
        finish_reason: Why it has ended; None while it has not.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        prompt_index: int = 0,
        index: int = 0,
    ) -> None:
        self.request, self.prompt_ids, self.prompt_index, self.index = (
            request,
            prompt_ids,
            prompt_index,
            index,
        )
        self.stream = random_stream(request.seed, index)
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._end_ids = tokenizer.end_ids
        continues = list(prompt_ids) != [tokenizer.start_id]
        self._decoder = IncrementalDecoder(tokenizer, continues=continues)
        self._matcher = StopMatcher(request.stop)
        self._logprobs: list[float] = []
        self._text: list[str] = []

    def take(self, token_id: int, logprob: float) -> Token:
        """Add the token just chosen, and end the sample if that ends it."""
        self._logprobs.append(logprob)
        self.token_ids.append(token_id)
        text = ""
        if token_id in self._end_ids:
            self.finish_reason = "end_of_text"
        else:
            text = self._matcher.feed(self._decoder.feed(token_id))
            if len(self.token_ids) == self.request.max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._matcher.feed(self._decoder.flush()) + self._matcher.flush()
        if self._matcher.stopped:
            self.finish_reason = "stop"
        self._text.append(text)
        return Token(self.prompt_index, self.index, token_id, logprob, text)

    def sample(self) -> Sample:
        """What is written so far."""
        return Sample(
            prompt=prompt_text(self.request.prompts[self.prompt_index]),
            prompt_index=self.prompt_index,
            index=self.index,
            text="".join(self._text),
            token_ids=[*self.token_ids],
            logprobs=self._logprobs[: len(self.token_ids)],  # an interrupt may have come between the two
            finish_reason=self.finish_reason or "interrupted",
            seed=self.request.seed,
        )

    def window(self, context_length: int) -> tuple[list[int], int]:
        """The tokens to read it from, and how many there are to be with those to come.

        All of them, or the last half context where they do not fit.
        """
        ids = [*self.prompt_ids, *self.token_ids]
        if len(ids) > context_length:
            ids = ids[-max(1, context_length // 2) :]
        # The last token that is written is never read.
        left = self.request.max_new_tokens - len(self.token_ids)
        return ids, min(context_length, len(ids) + left - 1)


class Batch:
    """Samples of one request that are written together; each whose prompt has been read gets a token a step.

    Samples join with `add` between any two steps and leave when they end, and none is changed by that. Those
    with equal prompts that join together read it once.

    Attributes:
        samples: Those that have not ended.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._session, self._context = engine.session(), engine.context_length
        self._tokenizer = tokenizer
        self._rows: dict[
            int, list[PartialSample]
        ] = {}  # row of the session to the samples that it is read for
        self._without_token: list[int] | None = None

    @property
    def samples(self) -> list[PartialSample]:
        """Those that have not ended."""
        return [sample for samples in self._rows.values() for sample in samples]

    def add(self, samples: Sequence[PartialSample]) -> None:
        """Take in samples; nothing is computed before the next step."""
        together: dict[tuple[int, ...], list[PartialSample]] = {}
        rooms: dict[tuple[int, ...], int] = {}
        for sample in samples:
            ids, room = sample.window(self._context)
            prompt = tuple(ids)
            together.setdefault(prompt, []).append(sample)
            rooms[prompt] = max(room, rooms.get(prompt, 0))
        rows = self._session.add(list(together), list(rooms.values()))
        self._rows.update(zip(rows, together.values(), strict=True))

    def step(self) -> list[tuple[PartialSample, Token]]:
        """Read on, and choose the next token of each sample whose prompt has been read.

        Returns:
            The tokens chosen. Samples that have a `finish_reason` now are no longer in the batch.

        Raises:
            ModelError: The model's logits are not numbers.
        """
        ready, logits = self._session.step(list(self._rows), _WHOLE)
        if not ready:
            return []
        samples = [sample for row in ready for sample in self._rows[row]]
        if len(samples) > len(ready):
            logits = np.repeat(logits, [len(self._rows[row]) for row in ready], axis=0)
        chosen, logprobs = self._choose(logits, samples)
        taken = zip(samples, chosen.tolist(), logprobs.tolist(), strict=True)
        tokens = [(sample, sample.take(token_id, logprob)) for sample, token_id, logprob in taken]
        self._go_on(ready)
        return tokens

    def _choose(self, logits: np.ndarray, samples: list[PartialSample]) -> tuple[np.ndarray, np.ndarray]:
        """The next token of each sample, int64, (R,), and its log-probability, float32, (R,)."""
        logsumexp, argmax = logit_summary(logits)
        if not np.isfinite(logsumexp).all():
            raise no_numbers()
        if self._without_token is None:
            self._without_token = self._tokenizer.ids_without_token(logits.shape[1])
        if self._without_token:
            logits[:, self._without_token] = -math.inf
        settings = samples[0].request
        if settings.takes_likeliest:
            chosen = logits.argmax(1) if self._without_token else argmax
        else:
            chosen = _sample(samples, logits, settings)
        return chosen, logits[np.arange(len(samples)), chosen] - logsumexp

    def _go_on(self, ready: list[int]) -> None:
        """Prepare the rows that have got a token for the next step."""
        sliding = []
        for row in ready:
            going = [sample for sample in self._rows[row] if sample.finish_reason is None]
            if going and self._session.room(row):
                rows = [row, *self._session.fork(row, len(going) - 1)]
                for each, sample in zip(rows, going, strict=True):
                    self._rows[each] = [sample]
                    self._session.append(each, sample.token_ids[-1])
            else:
                sliding += going
                self._forget(row)
        self.add(sliding)

    def _forget(self, row: int) -> None:
        del self._rows[row]
        self._session.drop([row])


def _sample(samples: list[PartialSample], logits: np.ndarray, settings: GenerationRequest) -> np.ndarray:
    histories = [[*sample.prompt_ids, *sample.token_ids] if settings.looks_back else [] for sample in samples]
    streams = [sample.stream for sample in samples]
    return sample_tokens(logits, histories, streams, [len(sample.token_ids) for sample in samples], settings)


def _refuse_overflow(prompts: list[list[int]], request: GenerationRequest, context_length: int) -> None:
    tokens = max(map(len, prompts))
    room = context_length - tokens
    if exceeds_context(tokens, request, context_length):
        first = f"generate at most {room:,} tokens" if room > 0 else "shorten the prompt"
        raise ContextLengthError(
            f"a prompt of {tokens:,} and {request.max_new_tokens:,} new tokens make "
            f"{tokens + request.max_new_tokens:,}, more than the model's context of {context_length:,}",
            hint=f"{first}, or let the window slide ({option('on_overflow', 'slide')})",
        )


def _batches(
    prompts: list[list[int]], engine: Engine, tokenizer: Tokenizer, request: GenerationRequest
) -> Iterator[list[PartialSample]]:
    """All samples, in batches that fit in memory, with prompts of like length together.

    Those that will outgrow the context share a batch only with prompts of their own length: then they all
    slide at once.
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
            yield [PartialSample(request, tokenizer, prompts[pair[0]], *pair) for pair in chunk]
