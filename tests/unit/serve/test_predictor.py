"""A class of the user's own behind `/predict`: how it is found, called and bounded; its faults."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest

from conjure.errors import ConjureError, NotFoundError, UsageError
from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.server import Shutdown
from conjure.serve.predictor import PredictorApi, load_predictor
from support.http_servers import running

_FILE = """
from helper import double

class Doubler:
    def __init__(self, offset=0):
        self.offset, self.calls = offset, 0

    def predict(self, payload):
        self.calls += 1
        return {"result": double(payload["number"]) + self.offset}

    def metrics(self):
        return {"calls": self.calls, "bad name": 1, "nan": float("nan")}

class NotOne:
    pass
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text("def double(number):\n    return 2 * number\n")
    path = tmp_path / "doubler.py"
    path.write_text(_FILE)
    return path


@contextmanager
def _serving(predictor, **options):
    api = PredictorApi(predictor, most_waiting=options.pop("most_waiting", 8))
    app = application(api.routes(), AccessRules())
    prepared = threading.Event()

    async def with_preparation(scope, receive, send):
        if not prepared.is_set():
            prepared.set()
            await api.prepare()
        await app(scope, receive, send)

    with running(with_preparation, Shutdown(api.drain, lambda: None)) as client:
        client.get("/health")
        client.api = api
        yield client


def test_a_predictor_answers_with_its_config(file):
    with _serving(load_predictor(str(file), {"offset": 1})) as client:
        assert client.post("/predict", {"number": 4}).json == {"result": 9}
        assert client.get("/ready").json == {"status": "ready"}
        metrics = client.get("/metrics").content.decode()
    assert "predictor_calls 1.0" in metrics
    assert "bad name" not in metrics
    assert "nan" not in metrics.lower()
    assert "conjure:requests_total 1" in metrics


@pytest.mark.parametrize(
    ("name", "config", "error", "words"),
    [
        ("nothing.py", {}, NotFoundError, "does not exist"),
        ("{file}:Tripler", {}, NotFoundError, "available: Doubler"),
        ("{file}:NotOne", {}, NotFoundError, "NotOne"),
        ("{file}", {"unknown": 1}, UsageError, "does not take this config"),
        ("{folder}/helper.py", {}, UsageError, "has none"),
    ],
)
def test_what_is_no_predictor_is_said(file, name, config, error, words):
    with pytest.raises(error, match=words):
        load_predictor(name.format(file=file, folder=file.parent), config)


@pytest.mark.parametrize(
    "source", ["raise OSError('x')", "class A:\n  def predict(self, p): pass\n  def __init__(self): 1/0"]
)
def test_faults_of_its_code_are_told_in_a_sentence(tmp_path, source):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ConjureError, match=r"(cannot be loaded|cannot be created): "):
        load_predictor(str(tmp_path / "bad.py"), {})


class _Failing:
    def predict(self, payload):
        if payload.get("json"):
            return object()
        raise ValueError("/secret")


def test_faults_while_predicting_are_500_and_the_next_request_is_served(file):
    with _serving(_Failing()) as client:
        for payload in ({}, {"json": 1}):
            answer = client.post("/predict", payload)
            assert (answer.status, answer.error["code"]) == (500, "predict_failed")
            assert b"secret" not in answer.content
        assert client.post("/predict", b"[]", {"Content-Type": "application/json"}).status == 400
        assert client.get("/health").status == 200


class _Slow:
    def __init__(self):
        self.started, self.go_on = threading.Event(), threading.Event()

    def predict(self, payload):
        self.started.set()
        assert self.go_on.wait(60)
        return payload

    def health(self):
        return not self.go_on.is_set()


def test_the_queue_is_bounded_and_health_is_asked():
    predictor = _Slow()
    with _serving(predictor, most_waiting=1) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", {"a": 1})))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert predictor.started.wait(60)
        while "num_requests_waiting 2" not in client.get("/metrics").content.decode():
            time.sleep(0.001)
        refused = client.post("/predict", {})
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert client.get("/health").status == 200
        predictor.go_on.set()
        for thread in threads:
            thread.join()
        assert [answer.json for answer in answers] == [{"a": 1}, {"a": 1}]
        assert (client.get("/health").status, client.get("/health").error["code"]) == (503, "unhealthy")


class _Async:
    async def prepare(self):
        self.ready = True

    async def predict(self, payload):
        await asyncio.sleep(0)
        return [self.ready, payload]

    async def health(self):
        return False

    async def metrics(self):
        return {"calls": 3}


def test_coroutines_are_awaited():
    with _serving(_Async()) as client:
        assert client.post("/predict", {"a": 1}).json == [True, {"a": 1}]
        assert (client.get("/health").status, client.get("/health").error["code"]) == (503, "unhealthy")
        assert "predictor_calls 3.0" in client.get("/metrics").content.decode()


class _Exhausted:
    def predict(self, payload):
        return next(iter(payload.values()))


def test_a_stop_iteration_is_a_fault_like_any_other():
    with _serving(_Exhausted()) as client:
        assert client.post("/predict", {}).error["code"] == "predict_failed"
        assert client.post("/predict", {"a": 1}).json == 1
