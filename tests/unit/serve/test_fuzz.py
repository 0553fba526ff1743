"""Whatever a field holds, the answer is 200, 400 or 404, and the next request is served."""

import random

import pytest

from conjure.serve.chat_request import KNOWN as KNOWN_CHAT
from conjure.serve.completion_request import KNOWN
from conjure.serve.generation_request import IGNORED
from support.api_servers import serving
from support.models import tiny_checkpoint

_VALUES = [
    None, True, False, 0, -1, 1, 1.5, 10**18, -(10**18), 1e308, -1e308, 5e-324, "", "a", "1" * 500, "\x00",
    "\ud800", "é" * 3000, [], [1], [[1]], [""], ["a"], [None], [[[]]], {}, {"1": 1}, {"a": None},
    {"include_usage": True}, [{"role": "user", "content": "a"}],
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving({"tiny": tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=64)}) as client:
        yield client


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_any_values_in_any_fields(client, route, seed):
    rng = random.Random(seed)
    known = KNOWN if route == "completions" else KNOWN_CHAT
    path, statuses = f"/v1/{route}", set()
    for _ in range(30):
        body = {"model": "tiny", "prompt": "My dog", "max_tokens": 3}
        body |= {name: rng.choice(_VALUES) for name in rng.sample([*known, *IGNORED, "x"], rng.randint(1, 3))}
        answer = client.post(path, body)
        statuses.add(answer.status)
        assert answer.status in (200, 400, 404), (body, answer.content)
        if answer.status != 200:
            assert list(answer.error) == ["message", "type", "param", "code"]
    assert 400 in statuses
    assert client.post("/v1/completions", {"model": "tiny", "prompt": "My", "seed": 1}).status == 200
