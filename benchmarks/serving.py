"""Figures of `conjure serve`, and of other servers beside it, by one client on the same machine.

    make bench-serve
    make bench-serve MODEL=runs/3 BESIDE=llama-server=http://127.0.0.1:8080

A server of ours is started for the model, and the library writes the same texts first; servers named by
``--beside NAME=URL`` must run already, with the same model. Only addresses of this machine are asked, by 64
connections at most, and one server takes a minute or two. Prints a table in Markdown.

Main entry: `main`. Every server gets the same requests: prompts as text, 128 tokens each, seeded.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CONJURE = Path(sys.executable).with_name("conjure")
PROMPT = "The old man walked slowly down to the sea, and the wind was cold. " * 2
TOKENS = 128
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Stream:
    """When the parts of one stream came, seconds from its request."""

    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0


async def stream(url: str, body: dict[str, object]) -> Stream:
    """Ask for one stream and read it to its end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
    await writer.drain()
    asked = last = time.perf_counter()
    found = Stream()
    async for line in reader:
        if line.startswith(b"data: {"):
            now = time.perf_counter()
            if found.first is None:
                found.first = now - asked
            else:
                found.gaps.append(now - last)
            last = now
            usage = json.loads(line[6:]).get("usage")
            found.tokens = usage["completion_tokens"] if usage else found.tokens
    writer.close()
    return found


def body(model: str, seed: int, **more: object) -> dict[str, object]:
    """One request; no end of text ends it, so that all write equally much."""
    fixed = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 1.0, "top_k": 50}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {**fixed, "seed": seed, "ignore_eos": True, **usage, **more}


async def at_once(url: str, model: str, count: int) -> tuple[float, float]:
    """Tokens a second of so many streams in sum, and the median time to their first token, seconds."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(stream(url, body(model, seed)) for seed in range(count)))
    seconds = time.perf_counter() - started
    firsts = [each.first for each in streams if each.first is not None]
    return sum(each.tokens for each in streams) / seconds, statistics.median(firsts)


async def first_tokens(url: str, model: str, count: int = 21) -> float:
    """The median time to the first token of a lone request, seconds."""
    found = [await stream(url, body(model, seed, max_tokens=2)) for seed in range(count)]
    return statistics.median(each.first for each in found if each.first is not None)


async def among_others(url: str, model: str) -> tuple[float, float]:
    """The first token beside 15 streams, and their longest gap while a long prompt is read, seconds."""
    others = [asyncio.create_task(stream(url, body(model, seed, max_tokens=400))) for seed in range(15)]
    await asyncio.sleep(1)  # until all of them write
    one = await stream(url, body(model, 99, max_tokens=2))
    await stream(url, body(model, 99, prompt=PROMPT * 30, max_tokens=1, truncate_prompt_tokens=400))
    streams = await asyncio.gather(*others)
    return one.first or 0.0, max(gap for each in streams for gap in each.gaps)


async def row(name: str, url: str, model: str) -> list[str]:
    """One server's figures."""
    await at_once(url, model, 2)  # what is loaded late is loaded now
    single, _ = await at_once(url, model, 1)
    sixteen, _ = await at_once(url, model, 16)
    sixty_four, _ = await at_once(url, model, 64)
    lone = await first_tokens(url, model)
    beside, gap = await among_others(url, model)
    figures = [f"{single:,.0f}", f"{sixteen:,.0f}", f"{sixty_four:,.0f}"]
    return [name, *figures, *(f"{1000 * seconds:,.0f}" for seconds in (lone, beside, gap))]


def library(model: str, rows: int) -> float:
    """Tokens a second that the library writes, so many texts at once."""
    code = (
        "import sys, time; from conjure.lm.generation.engine_loading import load_engine;"
        "from conjure.lm.generation.generate import Token, stream;"
        "from conjure.lm.generation.request import GenerationRequest;"
        "from conjure.recipes.resource_lookup import model_lookup;"
        "model, prompt, tokens, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]);"
        "writer = load_engine(model, rows=rows, lookups=[model_lookup]);"
        "ask = lambda: GenerationRequest(prompts=[prompt] * rows, max_new_tokens=tokens, seed=1);"
        "count = lambda: sum(isinstance(e, Token) for e in stream(writer.engine, writer.tokenizer, ask()));"
        "count(); start = time.perf_counter(); print(count() / (time.perf_counter() - start))"
    )
    words = [sys.executable, "-c", code, model, PROMPT, str(TOKENS), str(rows)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def peak_memory_gb(pid: int) -> float:
    """The most memory a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure conjure serve, and other servers beside it.")
    parser.add_argument("--model", default="sprite")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=URL")
    options = parser.parse_args(arguments)
    peers = [each.split("=", 1) for each in options.beside]
    for _, url in peers:
        if urlsplit(url).hostname not in _LOOPBACK:
            parser.error(f"{url} is not on this machine; nothing else is put under load")
    alone, together = library(options.model, 1), library(options.model, 16)
    print(f"library: 1 text {alone:,.0f}, 16 texts {together:,.0f} tokens/s")
    started = time.perf_counter()
    words = [CONJURE, "serve", "--model", options.model, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1].removesuffix("/v1")
        ready = time.perf_counter() - started
        rows = [asyncio.run(row("conjure serve", url, options.model))]
        print(f"ready after {ready:.1f} s, peak memory {peak_memory_gb(server.pid):.2f} GB\n")
    finally:
        server.terminate()
        server.wait()
    rows += [asyncio.run(row(name, url.removesuffix("/"), options.model)) for name, url in peers]
    print("| server | 1 stream | 16 | 64, tokens/s | first token | beside 15 | longest gap, ms |")
    print("|---|---|---|---|---|---|---|")
    for each in rows:
        print(f"| {' | '.join(each)} |")


if __name__ == "__main__":
    main()
