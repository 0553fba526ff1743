"""``POST /v1/chat/completions``: answers in a conversation, at once or as a stream.

Main entries: `ChatResponse`, `answer_chat`, `stream_chat`. Invariant: a stream's deltas, joined, are the
answer that would have come at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any

from conjure.http.event_stream import DONE, event
from conjure.http.generation.requests import Event, TokenLogprob, TokenWritten, finite_logprob
from conjure.http.generation.served_model import ServedModel
from conjure.serve.collected_texts import Text, collect
from conjure.serve.generation_request import Call
from conjure.serve.response import ApiResponse
from conjure.serve.token_texts import spell_token


class ChatResponse(ApiResponse[Call]):
    """What is common to all parts of one response."""

    def __init__(self, call: Call, model: ServedModel, name: str) -> None:
        super().__init__("chatcmpl", call, model, name)
        self._head["seed"] = call.job.seed

    def details(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Log-probabilities and token ids, as far as they are asked for."""
        call = self.call
        content = None if call.logprobs is None else {"content": [*map(self._token, tokens)], "refusal": None}
        details: dict[str, Any] = {"logprobs": content}
        if call.options.return_token_ids:
            details["token_ids"] = [each.token_id for each in tokens]
        return details

    def _token(self, token: TokenLogprob) -> dict[str, Any]:
        top = [self._spelled(*each) for each in token.top[: self.call.logprobs]]
        return {**self._spelled(token.token_id, token.logprob), "top_logprobs": top}

    def _spelled(self, token_id: int, logprob: float) -> dict[str, Any]:
        tokenizer = self.model.tokenizer
        return {
            "token": spell_token(tokenizer, token_id, as_id=self.call.options.tokens_as_ids),
            "logprob": finite_logprob(logprob),
            "bytes": list(tokenizer.decode_bytes([token_id])),
        }


async def answer_chat(response: ChatResponse, events: AsyncIterable[list[Event]]) -> bytes:
    """The whole answer as JSON, once all texts have ended."""
    collected = await collect(response.call.job, events)
    response.generated = collected.generated
    choices = (_choice(response, index, text) for index, text in enumerate(collected.texts.values()))
    return await asyncio.to_thread(response.whole, "chat.completion", choices, usage=response.usage)


def _choice(response: ChatResponse, index: int, text: Text) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(text.pieces), "refusal": None},
        "finish_reason": text.finish_reason,
        "stop_reason": text.stop_reason,
        **response.details(text.tokens),
    }


async def stream_chat(
    response: ChatResponse, events: AsyncIterable[list[Event]]
) -> AsyncGenerator[bytes, None]:
    """The answer as events."""
    writing = response.call.job.samples
    for index in range(writing):
        yield _chunk(response, index, {"role": "assistant", "content": ""})
    async for batch in events:
        for index, written in _by_sample(batch).items():
            response.generated += len(written)
            text, tokens = "".join(each.text for each in written), [each.token for each in written]
            if text or response.call.logprobs is not None or response.call.options.return_token_ids:
                yield _chunk(response, index, {"content": text}, tokens)
            if written[-1].finish_reason is not None:
                yield _chunk(response, index, {}, last=written[-1])
                writing -= 1
        if not writing:
            break
    if response.call.options.include_usage:
        yield event(response.with_head("chat.completion.chunk", [], usage=response.usage))
    yield DONE


def _by_sample(events: Iterable[Event]) -> dict[int, list[TokenWritten]]:
    by_sample: dict[int, list[TokenWritten]] = {}
    for each in events:
        if isinstance(each, TokenWritten):
            by_sample.setdefault(each.sample, []).append(each)
    return by_sample


def _chunk(
    response: ChatResponse,
    index: int,
    delta: dict[str, Any],
    tokens: Sequence[TokenLogprob] = (),
    *,
    last: TokenWritten | None = None,
) -> bytes:
    choice = {
        "index": index,
        "delta": delta,
        "finish_reason": last.finish_reason if last is not None else None,
        **(response.details(tokens) if tokens else {"logprobs": None}),
        **({"stop_reason": last.stop_reason} if last is not None else {}),
    }
    return event(response.with_head("chat.completion.chunk", [choice], **response.no_usage_yet))
