"""``POST /v1/completions``: texts that go on from prompts, at once or as a stream.

Main entries: `complete`, `stream_completion`. Invariant: a stream's chunks, joined, are the answer that would
have come at once, and each text is the one that the library generates for the same seed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from conjure.http.event_stream import DONE, event
from conjure.http.generation.requests import Event, PromptScored, TokenLogprob, TokenWritten
from conjure.http.generation.served_model import ServedModel
from conjure.serve.collected_texts import Text, collect
from conjure.serve.completion_request import CompletionCall
from conjure.serve.response import ApiResponse
from conjure.serve.token_texts import LegacyLogprobs, prompt_logprobs

_KIND = "text_completion"


class CompletionResponse(ApiResponse[CompletionCall]):
    """What is common to all parts of one response."""

    def __init__(self, call: CompletionCall, model: ServedModel, name: str) -> None:
        super().__init__("cmpl", call, model, name)

    def index(self, prompt: int, sample: int) -> int:
        """A text's place among all choices."""
        return prompt * self.call.n + sample

    def logprobs_of(self, prompt: int) -> LegacyLogprobs | None:
        """An empty object of log-probabilities, if they are asked for."""
        call = self.call
        if call.logprobs is None:
            return None
        ids, before = call.job.prompts[prompt], len(call.prompt_texts[prompt])
        return LegacyLogprobs(self.model.tokenizer, ids, before, as_ids=call.options.tokens_as_ids)

    def add_prompt(self, logprobs: LegacyLogprobs | None, prompt: int, scored: PromptScored | None) -> None:
        """Put the echoed prompt's tokens into the log-probabilities."""
        if logprobs is None or scored is None or not self.call.echo:
            return
        logprobs.add_prompt(self.call.prompt_texts[prompt], scored.tokens, self.call.logprobs or 0)

    def extras(
        self, prompt: int, tokens: Iterable[TokenLogprob], scored: PromptScored | None
    ) -> dict[str, Any]:
        """Fields of a choice that are only there when they are asked for."""
        call, extras = self.call, {}
        if call.options.return_token_ids:
            extras["token_ids"] = [token.token_id for token in tokens]
            extras["prompt_token_ids"] = list(call.job.prompts[prompt])
        if call.prompt_logprobs is not None and scored is not None:
            extras["prompt_logprobs"] = prompt_logprobs(
                self.model.tokenizer, scored.tokens, call.prompt_logprobs
            )
        return extras


async def complete(response: CompletionResponse, events: AsyncIterable[list[Event]]) -> bytes:
    """The whole answer as JSON, once all texts have ended."""
    job = response.call.job
    collected = await collect(job, events)
    response.generated = collected.generated
    choices = (
        _choice(response, prompt, index, text, collected.scored.get(prompt))
        for prompt in range(len(job.prompts))
        for index, text in enumerate(collected.best(prompt, response.call.n))
    )
    return await asyncio.to_thread(response.whole, _KIND, choices, usage=response.usage, seed=job.seed)


def _choice(
    response: CompletionResponse, prompt: int, sample: int, text: Text, scored: PromptScored | None
) -> dict[str, Any]:
    call = response.call
    logprobs = response.logprobs_of(prompt)
    response.add_prompt(logprobs, prompt, scored)
    if logprobs is not None:
        for token in text.tokens:
            logprobs.add(token, call.logprobs or 0)
    echoed = call.prompt_texts[prompt] if call.echo else ""
    return {
        "index": response.index(prompt, sample),
        "text": echoed + "".join(text.pieces),
        "logprobs": logprobs.take() if logprobs is not None else None,
        "finish_reason": text.finish_reason,
        "stop_reason": text.stop_reason,
        **response.extras(prompt, text.tokens, scored),
    }


async def stream_completion(
    response: CompletionResponse, events: AsyncIterable[list[Event]]
) -> AsyncGenerator[bytes, None]:
    """The answer as events."""
    stream = _Stream(response)
    for part in stream.first_parts():
        yield part
    async for batch in events:
        parts = stream.parts(batch)
        if stream.tells_scores(batch):
            parts = await asyncio.to_thread(list, parts)
        for part in parts:
            yield part
        if stream.ended:
            break
    if response.call.options.include_usage:
        yield event(response.with_head(_KIND, [], usage=response.usage))
    yield DONE


class _Stream:
    """What was sent of each text."""

    def __init__(self, response: CompletionResponse) -> None:
        self._response = response
        job = response.call.job
        self._needs_score = job.prompt_logprobs is not None
        self._scored: dict[int, PromptScored] = {}
        self._held: dict[int, list[TokenWritten]] = {}  # tokens of prompts that are not scored yet
        self._logprobs: dict[tuple[int, int], LegacyLogprobs | None] = {}  # of texts that have begun
        self._writing = len(job.prompts) * job.samples

    @property
    def ended(self) -> bool:
        """Whether every text has."""
        return self._writing == 0

    def first_parts(self) -> Iterable[bytes]:
        """Chunks that wait for nothing: those of an echo alone."""
        job = self._response.call.job
        if not job.computes:
            for prompt in range(len(job.prompts)):
                for sample in range(job.samples):
                    yield from self._chunk(prompt, sample, [])

    def tells_scores(self, events: Iterable[Event]) -> bool:
        """Whether log-probabilities of a prompt are to be sent now; a long one's take a while to encode."""
        return self._needs_score and any(map(self._tells_score, events))

    def _tells_score(self, told: Event) -> bool:
        if not isinstance(told, TokenWritten):
            return isinstance(told, PromptScored)
        return told.prompt in self._scored and (told.prompt, told.sample) not in self._logprobs

    def parts(self, events: Iterable[Event]) -> Iterable[bytes]:
        """Chunks to send now; tokens of one text that came together go in one."""
        together: dict[tuple[int, int], list[TokenWritten]] = {}
        for each in events:
            if isinstance(each, PromptScored):
                yield from self._begin(each)
            elif isinstance(each, TokenWritten):
                self._response.generated += 1
                if self._needs_score and each.prompt not in self._scored:
                    self._held.setdefault(each.prompt, []).append(each)
                else:
                    together.setdefault((each.prompt, each.sample), []).append(each)
        for (prompt, sample), written in together.items():
            yield from self._chunk(prompt, sample, written)

    def _begin(self, scored: PromptScored) -> Iterable[bytes]:
        """A prompt is scored: texts that waited for that can begin."""
        self._scored[scored.prompt] = scored
        job = self._response.call.job
        held = self._held.pop(scored.prompt, [])
        for sample in range(job.samples):
            written = [each for each in held if each.sample == sample]
            if written or job.max_tokens == 0:
                yield from self._chunk(scored.prompt, sample, written)

    def _chunk(self, prompt: int, sample: int, written: list[TokenWritten]) -> Iterable[bytes]:
        response, call = self._response, self._response.call
        text, first = "".join(each.text for each in written), (prompt, sample) not in self._logprobs
        tokens = [each.token for each in written]
        extras = {}
        if first:
            logprobs = self._logprobs[prompt, sample] = response.logprobs_of(prompt)
            response.add_prompt(logprobs, prompt, self._scored.get(prompt))
            text = (call.prompt_texts[prompt] if call.echo else "") + text
            extras = response.extras(prompt, tokens, self._scored.get(prompt))
        elif call.options.return_token_ids:
            extras = {"token_ids": [token.token_id for token in tokens]}
        logprobs = self._logprobs[prompt, sample]
        if logprobs is not None:
            for token in tokens:
                logprobs.add(token, call.logprobs or 0)
        finish = "length" if call.job.max_tokens == 0 else written[-1].finish_reason
        self._writing -= finish is not None
        if not (text or extras or logprobs or finish):
            return  # what was generated is part of a character, or may be of a stop string
        choice = {
            "index": response.index(prompt, sample),
            "text": text,
            "logprobs": logprobs.take() if logprobs is not None else None,
            "finish_reason": finish,
            "stop_reason": written[-1].stop_reason if written else None,
            **extras,
        }
        yield event(response.with_head(_KIND, [choice], **response.no_usage_yet, seed=call.job.seed))
