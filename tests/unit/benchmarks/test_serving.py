"""What the client of the servers' benchmark makes of answers: the figures are for the machine to say."""

import asyncio
import itertools
import json
import math
import sys

import pytest

FACTS = {
    "processor": "AMD EPYC",
    "cores": 2,
    "date": "2026-01-01",
    "features": ["avx2"],
    "memory_bytes": 1 << 34,
    "system": "Linux",
    "python": "3.11",
    "conjure": "0.2",
    "versions": {"transformers": "5.0"},
    "load_average": 0.1,
}


@pytest.fixture
def client(benchmark):
    return benchmark("serving_client")


def served(client, ask, *, tokens=3, hangs=False, status=200):
    """What `ask` gives of a server that writes so many tokens to everybody, then hangs or ends."""

    async def answer(reader, writer):
        try:
            await write(reader, writer)
        except ConnectionError:
            pass  # the client has had enough
        finally:
            writer.close()

    async def write(reader, writer):
        body = None
        while (line := await reader.readline()).strip():
            if line.startswith(b"Content-Length"):
                body = int(line.split()[1])
        count = min(tokens, json.loads(await reader.readexactly(body))["max_tokens"])
        writer.write(f"HTTP/1.1 {status} Any\r\nRetry-After: 1\r\n\r\n".encode())
        if status != 200:
            return
        for _ in range(count):
            writer.write(b'data: {"choices": [{"text": "a"}]}\n\n')
            await writer.drain()
            await asyncio.sleep(0.01)
        if hangs:
            await reader.read()  # until the client closes it
        usage = {"prompt_tokens": 32, "completion_tokens": count}
        writer.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await ask(client.Client(f"http://127.0.0.1:{port}", {"model": "m"}))
        finally:
            server.close()

    return asyncio.run(main())


@pytest.fixture
def prompts(client):
    return client.Prompts([f"prompt {number}" for number in range(64)], "a long one", 1024)


def test_every_measure_of_a_server_that_answers(client, prompts, monkeypatch):
    monkeypatch.setattr(client, "_LONE_REQUESTS", 5)
    figures = served(client, lambda asked: client.measure(asked, prompts), tokens=20)
    assert set(figures.speeds) == {1, 16, 64}
    assert all(speed > 0 for speed in figures.speeds.values())
    assert (figures.failed, figures.prompt_tokens) == (0, 32)
    assert 0 < figures.first_s <= figures.first_99_s
    assert all(map(math.isfinite, (figures.longest_gap_s, figures.first_among_others_s)))


def test_a_text_that_takes_too_long_counts_as_far_as_it_came(client, prompts, monkeypatch):
    monkeypatch.setattr(client, "LIMIT_S", 1.0)
    speed, failed = served(
        client, lambda asked: client._speed(asked, prompts.short[:4], 3), tokens=5, hangs=True
    )
    assert failed == 4
    assert speed > 0
    text = client.Text(moments=[1.0, 2.0])
    assert (text.count, text.complete) == (2, False)
    assert math.isinf(client.Text().first_s)


def test_a_server_that_refuses_is_left_out_with_its_words(client, prompts, benchmark):
    with pytest.raises(benchmark("processes").WorkerError, match="answered by status 422"):
        served(client, lambda asked: client.measure(asked, prompts), status=422)


def test_a_gap_counts_if_some_of_it_lies_beside_the_long_prompt(client):
    texts = [client.Text(moments=[0.0, 1.0, 5.0, 5.1, 9.9]), client.Text(moments=[4.9])]

    async def long_prompt_from_2_to_4(*_):
        return 2.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_first_s", long_prompt_from_2_to_4)
        patch.setattr(client.time, "perf_counter", lambda: 2.0)
        assert asyncio.run(client._gap_s(None, "", texts)) == 4.0


def test_a_row_has_the_goal_beside_the_figures_of_every_server(benchmark):
    report = benchmark("serving_report")
    figures = benchmark("serving_client").Figures(
        {1: 380.0, 16: 2400.0, 64: 2500.0}, 0, 0.01, 0.02, math.inf, 0.04, 32, 996
    )
    slower = report.Figures({1: 190.0, 16: 600.0, 64: 600.0}, 2, 0.02, 0.03, 0.1, 0.2, 32, 996)
    results = {
        "conjure serve": report.Result(figures, 1.5, 1_200_000_000, 0.002, 900.0),
        "other": report.Result(slower),
    }
    settings = {"parameters": 124e6, "model": None, "whole": True, "seconds": 60.0}
    library = report.Library({1: [400.0], 16: [3000.0]}, [1000.0])
    page = list(report.lines(results, {"vLLM": "not here"}, library, FACTS, settings))
    assert "| share of the library's 400 | ≥ 95% | 95% | 48% |" in page
    assert "| conjure is faster by | ≥ 3 × llama-server |  | 4.0 × |" in page
    assert "| first token among 15 other streams | ≤ 60 ms | none | 100 ms |" in page
    assert "| queue full: refused with 429 after | ≤ 5 ms | 2.0 ms | – |" in page
    assert "- vLLM: not here" in page
    assert not [line for line in page if "other work" in line]
    busy = list(report.lines(results, {}, library, FACTS | {"load_average": 9.0}, settings))
    assert [line for line in busy if line.startswith("**The machine did other work** (load 9.0)")]


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://example.org", "mine"])
def test_only_servers_of_this_machine_are_asked(benchmark, monkeypatch, url, capsys):
    monkeypatch.setattr(sys, "argv", ["serving.py", "--beside", f"mine={url}"])
    with pytest.raises(SystemExit):
        benchmark("serving").parse()
    assert "nothing else is put under load" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "refused"), [(429, True), (200, False), (503, False)])
def test_a_full_queue_is_refused_by_status_429(client, prompts, monkeypatch, status, refused):
    monkeypatch.setattr(client, "LIMIT_S", 0.2)  # a server that refuses everybody never begins
    seconds = served(client, lambda asked: client.refusal_s(asked, prompts), status=status, tokens=2)
    assert math.isfinite(seconds) == refused


def test_scoring_asks_for_every_text_in_batches_the_longest_first(client, monkeypatch):
    asked, ticks = [], itertools.count()
    monkeypatch.setattr(client.time, "perf_counter", lambda: next(ticks) / 100)

    class Scorer:
        async def score(self, prompts):
            await asyncio.sleep(0)
            asked.append([len(prompt) for prompt in prompts])
            return len(prompts)

    speed = asyncio.run(client.scoring_speed(Scorer(), ["a" * length for length in range(1, 20)]))
    seconds = (next(ticks) - 1) / 100
    assert speed * seconds == pytest.approx(19)  # texts of all connections
    warm, *batches = asked
    assert (warm, batches) == ([3, 2, 1], [list(range(19, 11, -1)), list(range(11, 3, -1)), [3, 2, 1]])
