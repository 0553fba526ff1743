"""The servers that are measured, and how each is started and asked.

Main entries: `servers`, `running`. Invariants: they listen on this machine only; one runs at a time, and none
runs on when the benchmark ends; all have the same weights and the same number of threads.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contenders import HERE, OURS, PEERS, gguf_file
from processes import REASON_CHARACTERS, WorkerError, environment, free_port, last_line, variables
from serving_client import Client

SLOTS = 16
LLAMA_SERVER_SKIPPED = HERE / ".venv" / "llama-server.skipped"
VLLM = HERE / ".venv" / "vllm" / "bin" / "python"
VLLM_SKIPPED = HERE / ".venv" / "vllm.skipped"
_READY_LIMIT_S, _END_LIMIT_S = 300, 20
_PAUSE_S = 0.01
_NOT_THERE = "it is not there: benchmarks/setup --servers installs it"
_GENERATION = '{"do_sample": true, "temperature": 1.0, "top_k": 50}'


@dataclass(frozen=True)
class Server:
    """One server at one setting.

    Attributes:
        name: For tables.
        command: Starts it, with the port after it; empty where it runs already.
        fields: Of its requests, besides those that all servers know.
        each_token: As `Client.each_token`.
        variables: Environment variables.
        url: Where it is, if it runs already.
        missing: Why it cannot be measured; None where it can.
        ours: It is conjure's.
    """

    name: str
    command: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    missing: str | None = None
    ours: bool = False
    each_token: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, *options: str) -> "Server":
        """The same, started with more options."""
        return replace(self, command=(*self.command, *options))


@dataclass(frozen=True)
class Running:
    """A server that takes requests.

    Attributes:
        client: Asks it.
        ready_s: Seconds from its command until it did; None where it ran already.
        process: Of it; None where it ran already.
    """

    client: Client
    ready_s: float | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that it and the processes it started have held, in sum."""
        return None if self.process is None else sum(_peak_bytes(each) for each in _family(self.process.pid))


def ours(model: str) -> Server:
    """`conjure serve` at its defaults."""
    command = (str(OURS / "conjure"), "serve", "--model", f"bench={model}")
    fields = {**_as_vllm("bench"), "truncate_prompt_tokens": -1}
    return Server("conjure serve", command, fields, ours=True, each_token={"return_token_ids": True})


def peers(folder: Path, threads: int) -> Iterator[Server]:
    """The other servers, at the best settings found for them.

    Args:
        folder: Where workers/prepare.py put the model.
        threads: Of llama-server; the others take them from the environment.
    """
    yield _llama_server(folder, threads)
    checkpoint = str(folder / "checkpoint")
    transformers = (str(PEERS / "transformers"), "serve", checkpoint, "--device", "cpu")
    fields = {"model": checkpoint, "generation_config": _GENERATION}
    missing = None if (PEERS / "transformers").exists() else _NOT_THERE
    yield Server("transformers serve", transformers, fields, missing=missing)
    batching = (*transformers, "--continuous-batching")
    yield Server("transformers serve, continuous batching", batching, fields, missing=missing)
    yield _vllm(folder)


def beside(name: str, url: str, model: str) -> Server:
    """A server that the user has started, which knows vLLM's fields or ignores them."""
    return Server(name, url=url.removesuffix("/").removesuffix("/v1"), fields=_as_vllm(model))


def _llama_server(folder: Path, threads: int) -> Server:
    program = PEERS / "llama-server"
    settings = {"-np": SLOTS, "-c": SLOTS * 1024, "-t": threads, "-tb": threads}
    words = [str(word) for item in settings.items() for word in item]
    command = (str(program), "-m", str(gguf_file(folder, "q8_0")), *words, "-cram", "0", "--no-webui")
    # Its own defaults would cut the distribution further, and take prompts from a cache.
    fields = {**_as_vllm("bench"), "top_p": 1.0, "min_p": 0.0, "cache_prompt": False}
    return Server("llama-server, q8_0", command, fields, missing=_why_missing(program, LLAMA_SERVER_SKIPPED))


def _vllm(folder: Path) -> Server:
    settings = {"--model": str(folder / "checkpoint"), "--served-model-name": "bench", "--dtype": "bfloat16"}
    settings |= {"--max-model-len": "1024", "--max-num-seqs": "64"}
    words = [word for item in settings.items() for word in item]
    command = (str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *words, "--no-enable-prefix-caching")
    # By itself it binds its threads to all cores but one, which on two cores leaves it one.
    settled = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    settled |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(folder.parent / "home" / "vllm")}
    missing = _why_missing(VLLM, VLLM_SKIPPED)
    return Server("vLLM, bfloat16", command, _as_vllm("bench"), settled, missing=missing)


def _why_missing(program: Path, skipped: Path) -> str | None:
    if skipped.exists():
        return skipped.read_text(encoding="utf-8").strip()
    return None if program.exists() else _NOT_THERE


def _as_vllm(model: str) -> dict[str, Any]:
    return {"model": model, "top_k": 50, "ignore_eos": True, "stream_options": {"include_usage": True}}


@contextmanager
def running(server: Server, threads: int, home: Path) -> Iterator[Running]:
    """Start a server, and end it.

    Args:
        server: What to start; nothing is started where it runs already.
        threads: That it may use.
        home: For what it keeps.

    Raises:
        WorkerError: It ended, or is not ready after five minutes.
    """
    if server.url is not None:
        yield Running(Client(server.url, server.fields, server.each_token))
        return
    port = free_port()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*server.command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment({**variables(threads, home), **server.variables}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            client = Client(f"http://127.0.0.1:{port}", server.fields, server.each_token)
            _wait_until_ready(client, process, output, started)
            yield Running(client, time.perf_counter() - started, process)
        finally:
            _end(process)


def _family(process: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text(encoding="utf-8").split():
            yield from _family(int(child))


def _peak_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], output: Any, started: float) -> None:
    while not _is_ready(client):
        seconds = time.perf_counter() - started
        if process.poll() is not None or seconds > _READY_LIMIT_S:
            output.seek(0)
            words = f"not ready after {seconds:.0f} s"
            raise WorkerError(f"{words}: {last_line(output.read())[:REASON_CHARACTERS]}")
        time.sleep(_PAUSE_S)


def _is_ready(client: Client) -> bool:
    try:
        return asyncio.run(client.get("/health")) == 200
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):  # what it started and did not end itself
        os.killpg(process.pid, signal.SIGKILL)
