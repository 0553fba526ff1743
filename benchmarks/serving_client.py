"""The client that times servers: OpenAI's completions as streams, over plain sockets.

Main entry: `measure`. Invariants: at most 64 connections at once; no measure takes longer than `LIMIT_S`, and
what came until then counts; every server is asked for the same texts.
"""

import asyncio
import json
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from processes import WorkerError

T = TypeVar("T")

LIMIT_S, WARM_UP_LIMIT_S = 20.0, 120.0
NEW = 128
OTHERS = 15
SCORING = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}  # as lm-evaluation-harness asks
TIMES = {1: 9, 16: 3, 64: 1}  # by texts at once
_LONE_REQUESTS, _AMONG_OTHERS, _LONG_PROMPTS, _REFUSALS = 100, 9, 3, 50
_SCORED_AT_ONCE, _SCORED_CONNECTIONS = 8, 4
_PAUSE_S = 0.01
_REASON_BYTES = 200


@dataclass
class Text:
    """One text as it comes.

    Attributes:
        asked: When its request began, with the connection.
        moments: When each of its parts came.
        tokens: As the server counts them in the end.
        prompt_tokens: Likewise.
        status: Of the response; 0 where none came.
        refusal: The body of a response that is an error.
        retry_after: Whether it said when to ask again.
        complete: It came to its end.
    """

    asked: float = 0.0
    moments: list[float] = field(default_factory=list)
    tokens: int | None = None
    prompt_tokens: int = 0
    status: int = 0
    refusal: str = ""
    retry_after: bool = False
    complete: bool = False

    @property
    def count(self) -> int:
        """Its tokens; of a text that did not come to its end, its parts."""
        return len(self.moments) if self.tokens is None else self.tokens

    @property
    def first_s(self) -> float:
        """Seconds to its first part; infinite where none came."""
        return self.moments[0] - self.asked if self.moments else math.inf


@dataclass(frozen=True)
class Prompts:
    """What is asked for.

    Attributes:
        short: 64 of them.
        long: Fills the context, but for a few tokens.
        context: Tokens of the model's context.
    """

    short: Sequence[str]
    long: str
    context: int


@dataclass(frozen=True)
class Figures:
    """What one server did; times in seconds, infinite where nothing came within `LIMIT_S`.

    Attributes:
        speeds: Tokens per second in sum, by texts at once: the median of some times.
        failed: Of 64 requests at once, those without a complete text within `LIMIT_S`.
        first_s: From a lone request to its first token, median.
        first_99_s: The same, 99th percentile.
        first_among_others_s: The same while 15 others write, median.
        longest_gap_s: The longest time one of these got nothing while a long prompt was read; the median of
            some such prompts.
        prompt_tokens: Of a short prompt.
        long_prompt_tokens: Of the long one.
    """

    speeds: Mapping[int, float]
    failed: int
    first_s: float
    first_99_s: float
    first_among_others_s: float
    longest_gap_s: float
    prompt_tokens: int
    long_prompt_tokens: int


@dataclass(frozen=True)
class Client:
    """Asks one server.

    Attributes:
        url: Where it is.
        fields: Of its requests, besides those that all servers know.
        each_token: Further fields, with which it sends a part for every token, also for one that is no whole
            character and would be sent with the next.
    """

    url: str
    fields: Mapping[str, Any]
    each_token: Mapping[str, Any] = field(default_factory=dict)

    async def read(self, text: Text, prompt: str, seed: int, new: int = NEW) -> None:
        """Ask for one text, and enter in `text` what comes."""
        body = {"prompt": prompt, "max_tokens": new, "temperature": 1.0, "seed": seed, "stream": True}
        text.asked = time.perf_counter()
        reader, writer = await self._send("POST /v1/completions", {**body, **self.fields})
        try:
            text.status, headers = await _head(reader)
            if text.status != 200:
                text.retry_after = "retry-after" in headers
                text.refusal = (await reader.read(_REASON_BYTES)).decode(errors="replace")
                return
            async for line in reader:
                if line.startswith(b"data: {"):
                    _enter(text, line)
            text.complete = bool(text.moments)
        finally:
            writer.close()

    async def score(self, prompts: Sequence[str]) -> int:
        """Ask for the log-probabilities of prompts; how many tokens they are."""
        fields = {name: value for name, value in self.fields.items() if name == "model"}
        reader, writer = await self._send("POST /v1/completions", {**SCORING, **fields, "prompt": prompts})
        try:
            status, _ = await _head(reader)
            answer = await reader.read()
            if status != 200:
                raise WorkerError(f"scoring was answered by status {status}")
            return json.loads(answer)["usage"]["prompt_tokens"]
        finally:
            writer.close()

    async def get(self, path: str) -> int:
        """The status of a GET."""
        reader, writer = await self._send(f"GET {path}", None)
        try:
            return (await _head(reader))[0]
        finally:
            writer.close()

    async def _send(self, what: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        content = b"" if body is None else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"{what} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        return reader, writer


async def _head(reader: asyncio.StreamReader) -> tuple[int, set[str]]:
    """The status of a response, and the names of its headers in lower case."""
    words = (await reader.readline()).split()
    if len(words) < 2:
        raise ConnectionError("closed without a response")
    names = set()
    while (line := await reader.readline()).strip():
        names.add(line.partition(b":")[0].decode().lower())
    return int(words[1]), names


def _enter(text: Text, line: bytes) -> None:
    text.moments.append(time.perf_counter())
    # To read every part as JSON would take processor time from the server.
    if b'"completion_tokens"' in line and (usage := json.loads(line[6:]).get("usage")):
        text.tokens, text.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]


async def measure(client: Client, prompts: Prompts) -> Figures:
    """All figures of one server that every server can have.

    Raises:
        WorkerError: It does not answer these requests.
    """
    short, long = await _warm_up(client, prompts)
    speeds, failed = {}, 0
    for count, times in TIMES.items():
        speeds[count], failed = await _speed(client, prompts.short[:count], times)
    firsts = await _first_tokens(client, prompts.short, _LONE_REQUESTS)
    among_others, gap = await _among_others(client, prompts)
    return Figures(
        speeds=speeds,
        failed=failed,
        first_s=statistics.median(firsts),
        first_99_s=sorted(firsts)[math.ceil(0.99 * len(firsts)) - 1],
        first_among_others_s=among_others,
        longest_gap_s=gap,
        prompt_tokens=short.prompt_tokens,
        long_prompt_tokens=long.prompt_tokens,
    )


async def fill(client: Client, prompts: Prompts, count: int = 16) -> None:
    """So many texts at once, each as long as the context allows."""
    await _at_once(client, prompts.short[:count], new=prompts.context - 32)


async def refusal_s(client: Client, prompts: Prompts) -> float:
    """The median time in which a server that takes one text, and lets one wait, refuses further ones.

    Infinite where it refuses less than half of them, or does not say when to ask again.
    """
    texts: list[Text] = []
    tasks = [
        asyncio.create_task(_write_on(client, prompts.short[each], prompts.context // 2, texts))
        for each in range(2)
    ]
    await _until(lambda: any(text.moments for text in texts))
    await asyncio.sleep(10 * _PAUSE_S)  # until the other one waits
    found = await _repeated(_REFUSALS, lambda _: _refused_s(client, prompts.long))
    await _end(tasks)
    return statistics.median(found)


async def _refused_s(client: Client, prompt: str) -> float:
    text = Text()
    await _within_limit(client.read(text, prompt, 0, new=2))
    return time.perf_counter() - text.asked if text.status == 429 and text.retry_after else math.inf


async def scoring_speed(client: Client, texts: Sequence[str]) -> float:
    """Prompt tokens per second, as lm-evaluation-harness asks: longest first, some connections at once."""
    ordered = sorted(texts, key=len, reverse=True)
    batches = [ordered[at : at + _SCORED_AT_ONCE] for at in range(0, len(ordered), _SCORED_AT_ONCE)]
    await client.score(batches[-1])  # what is loaded late is loaded now
    left, tokens = iter(batches), 0

    async def work() -> None:
        nonlocal tokens
        while time.perf_counter() - began < LIMIT_S and (batch := next(left, None)):
            scored = await client.score(batch)
            tokens += scored  # in a line of its own: others count while this one waits

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_SCORED_CONNECTIONS)))
    return tokens / (time.perf_counter() - began)


async def _warm_up(client: Client, prompts: Prompts) -> tuple[Text, Text]:
    """A short and a long prompt, so that what is loaded late is loaded."""
    short, long = Text(), Text()
    await _within_limit(client.read(short, prompts.short[0], 0, new=16), limit_s=WARM_UP_LIMIT_S)
    await _within_limit(client.read(long, prompts.long, 0, new=2), limit_s=WARM_UP_LIMIT_S)
    for text in (short, long):
        if text.status not in (0, 200):
            raise WorkerError(f"a request was answered by status {text.status}: {text.refusal}".strip())
        if not text.complete:
            raise WorkerError(f"a request was not answered within {WARM_UP_LIMIT_S:.0f} s")
    return short, long


async def _at_once(client: Client, prompts: Sequence[str], new: int = NEW) -> list[Text]:
    texts = [Text() for _ in prompts]
    each = zip(texts, prompts, strict=True)
    await _within_limit(*(client.read(text, prompt, seed, new) for seed, (text, prompt) in enumerate(each)))
    return texts


async def _speed(client: Client, prompts: Sequence[str], times: int) -> tuple[float, int]:
    """Tokens per second, the median of some times; and the most texts of one time that were not complete."""

    async def once(_: int) -> tuple[float, int]:
        texts = await _at_once(client, prompts)
        last = max((text.moments[-1] for text in texts if text.moments), default=math.inf)
        speed = sum(text.count for text in texts) / (last - min(text.asked for text in texts))
        return speed, sum(not text.complete for text in texts)

    speeds, failed = zip(*await _repeated(times, once), strict=True)
    return statistics.median(speeds), max(failed)


async def _first_tokens(client: Client, prompts: Sequence[str], times: int) -> list[float]:
    return await _repeated(times, lambda number: _first_s(client, prompts[number % len(prompts)]))


async def _among_others(client: Client, prompts: Prompts) -> tuple[float, float]:
    """The first token beside 15 texts, and the longest gap of these while a long prompt is read."""
    texts: list[Text] = []
    telling_all = replace(client, fields={**client.fields, **client.each_token})
    others = [
        asyncio.create_task(_write_on(telling_all, prompt, prompts.context // 2, texts))
        for prompt in prompts.short[:OTHERS]
    ]
    firsts, gaps = [math.inf], [math.inf]
    if await _until(lambda: sum(bool(text.moments) for text in texts) >= OTHERS):
        firsts = await _first_tokens(client, prompts.short[OTHERS:], _AMONG_OTHERS)
        gaps = await _repeated(_LONG_PROMPTS, lambda _: _gap_s(client, prompts.long, texts))
    await _end(others)
    return statistics.median(firsts), statistics.median(gaps)


async def _write_on(client: Client, prompt: str, new: int, texts: list[Text]) -> None:
    """One text after the other, so that a fast server, too, always has others to write; until cancelled."""
    while True:
        texts.append(text := Text())
        await client.read(text, prompt, len(texts), new)
        if not text.complete:
            await asyncio.sleep(_PAUSE_S)


async def _first_s(client: Client, prompt: str) -> float:
    text = Text()
    await _within_limit(client.read(text, prompt, 99, new=2))
    return text.first_s


async def _gap_s(client: Client, prompt: str, texts: Sequence[Text]) -> float:
    """The longest time between two parts of a text, of which some lies between a request and its answer."""
    began = time.perf_counter()
    ended = began + await _first_s(client, prompt)
    gaps = [
        after - before
        for text in texts
        for before, after in zip(text.moments, text.moments[1:], strict=False)
        if after > began and before < ended
    ]
    return max(gaps, default=math.inf)


async def _repeated(times: int, ask: Callable[[int], Awaitable[T]]) -> list[T]:
    """What comes of asking so many times; of fewer, where these take longer than the limit."""
    found: list[T] = []
    began = time.perf_counter()
    while len(found) < times and (not found or time.perf_counter() - began < LIMIT_S):
        found.append(await ask(len(found)))
    return found


async def _until(true: Callable[[], bool]) -> bool:
    """Wait until something is true; whether it became so within the limit."""
    began = time.perf_counter()
    while not true() and time.perf_counter() - began < LIMIT_S:
        await asyncio.sleep(_PAUSE_S)
    return true()


async def _within_limit(*reads: Awaitable[None], limit_s: float | None = None) -> None:
    tasks = [asyncio.ensure_future(each) for each in reads]
    await asyncio.wait(tasks, timeout=LIMIT_S if limit_s is None else limit_s)
    await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Cancel what still runs. A connection that fails leaves a text that is not complete."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, OSError):
            raise result
