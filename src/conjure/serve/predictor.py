"""A predictor: a class of the user's own behind `/predict`.

Main entries: `load_predictor`, `PredictorApi`. Invariant: the code that runs is named by whoever starts the
server, never by a request; one call of `predict` runs at a time, and no more than a stated number wait.
"""

import importlib.util
import inspect
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from conjure.errors import ConjureError, NotFoundError, UsageError
from conjure.http.application import errors_log
from conjure.http.daemon_threads import DaemonThread
from conjure.http.errors import HttpError, JsonResponse, queue_full, unavailable
from conjure.http.event_stream import until_disconnected
from conjure.http.metrics_text import CONTENT_TYPE, Metrics
from conjure.http.request_body import read_json_object

_MODULE = "conjure_predictor"
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60)


def load_predictor(name: str, config: Mapping[str, Any]) -> Any:
    """Make the predictor of a file.

    Args:
        name: ``FILE`` or ``FILE:CLASS``; without a class, the file must have one with a `predict` method.
        config: Keyword arguments of the class.

    Raises:
        NotFoundError: There is no such file or class.
        UsageError: It is no predictor.
        ConjureError: Its own code fails.
    """
    path, _, class_name = name.partition(":")
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"predictor file {path} does not exist")
    try:
        module = _imported(file)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ConjureError(f"predictor file {path} cannot be loaded: {cause}") from error
    made = _find(module, class_name, path)
    try:
        return made(**config)
    except TypeError as error:
        raise UsageError(
            f"predictor {made.__name__} does not take this config: {error}",
            hint="--config gives the arguments of its __init__",
        ) from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ConjureError(f"predictor {made.__name__} cannot be created: {cause}") from error


def _imported(file: Path) -> ModuleType:
    sys.path.insert(0, str(file.absolute().parent))  # what it imports lies beside it
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, class_name: str, path: str) -> type:
    own = {
        name: each
        for name, each in vars(module).items()
        if inspect.isclass(each) and each.__module__ == _MODULE and callable(getattr(each, "predict", None))
    }
    if class_name and class_name not in own:
        known = f"; available: {', '.join(own)}" if own else ""
        raise NotFoundError(f"{path} has no class {class_name!r} with a predict method{known}")
    if not class_name and len(own) != 1:
        found = f"has several: {', '.join(own)}" if own else "has none"
        raise UsageError(
            f"a predictor is a class with a predict method, and {path} {found}",
            hint=f"name one: --predictor {path}:CLASS",
        )
    return own[class_name] if class_name else next(iter(own.values()))


class PredictorApi:
    """The routes of a predictor.

    Attributes:
        ready: Whether it is prepared.
    """

    def __init__(self, predictor: Any, *, most_waiting: int) -> None:
        self.ready = False
        self._predictor, self._most_waiting = predictor, most_waiting
        self._waiting, self._draining = 0, False
        self._thread = DaemonThread("predictor")
        self._checks = DaemonThread("predictor-checks")  # one for all, lest checks that hang fill the process
        metrics = self._metrics = Metrics("conjure:")
        metrics.counter("requests_total", "Requests received.")
        metrics.counter("request_failed_total", "Requests whose predict failed.")
        metrics.gauge("num_requests_waiting", "Requests in progress or waiting.", self._count_waiting)
        metrics.histogram("predict_seconds", "Time of a call of predict.", _SECONDS)

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.is_ready),
            Route("/metrics", self.show_metrics),
        ]

    async def prepare(self) -> None:
        """Let the predictor get ready, by its `prepare` if it has one.

        Raises:
            ConjureError: It fails.
        """
        prepare = getattr(self._predictor, "prepare", None)
        if callable(prepare):
            try:
                await _called(self._thread, prepare)
            except Exception as error:
                raise ConjureError(
                    f"the predictor's prepare failed: {type(error).__name__}: {error}"
                ) from error
        self.ready = True

    def drain(self) -> None:
        """Take nothing new."""
        self._draining = True

    @property
    def served(self) -> float:
        """Requests taken in so far."""
        return self._metrics.total("requests_total")

    async def predict(self, request: Request) -> Response:
        """``POST /predict``: the body, a JSON object, to the predictor; what it returns, as JSON."""
        self._check_ready()
        if self._waiting > self._most_waiting:  # one of them does not wait: it is being computed
            raise queue_full(self._waiting - 1)
        self._waiting += 1
        try:
            payload = await read_json_object(request)
            self._metrics.add("requests_total")
            return await until_disconnected(request.receive, self._predicted(payload)) or Response(
                status_code=499
            )
        finally:
            self._waiting -= 1

    async def health(self, request: Request) -> JsonResponse:  # noqa: ARG002
        """``GET /health``: whether the predictor says it works; no key is needed."""
        check = getattr(self._predictor, "health", None)
        if callable(check) and await _called(self._checks, check) is False:
            raise HttpError(503, "the predictor reports that it does not work", code="unhealthy")
        self._check_ready()
        return JsonResponse({"status": "ok"})

    async def is_ready(self, request: Request) -> JsonResponse:  # noqa: ARG002
        """``GET /ready``: whether it would take a request now."""
        self._check_ready()
        return JsonResponse({"status": "ready"})

    async def show_metrics(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /metrics``: ours, and the numbers that the predictor's `metrics` returns."""
        text = self._metrics.render()
        own = getattr(self._predictor, "metrics", None)
        values: Any = await _called(self._checks, own) if callable(own) else {}
        for name, value in dict(values or {}).items():
            is_number = isinstance(value, int | float) and math.isfinite(value)
            if str(name).isidentifier() and is_number:
                text += f"predictor_{name} {float(value)!r}\n"
        return Response(text, media_type=CONTENT_TYPE)

    async def _predicted(self, payload: dict[str, Any]) -> JsonResponse:
        started = time.monotonic()
        try:
            return JsonResponse(await _called(self._thread, self._predictor.predict, payload))
        except Exception as error:
            self._metrics.add("request_failed_total")
            errors_log.error("predict failed: %s", error, exc_info=error)
            raise HttpError(
                500, "the predictor failed; the server's log says why", code="predict_failed"
            ) from error
        finally:
            self._metrics.observe("predict_seconds", time.monotonic() - started)

    def _check_ready(self) -> None:
        if self._draining:
            raise unavailable("the server is shutting down")
        if not self.ready:
            raise unavailable("the predictor is not ready yet; try again in a moment")

    def _count_waiting(self) -> dict[Any, float]:
        return {(): float(self._waiting)}


async def _called(thread: DaemonThread, method: Any, *arguments: Any) -> Any:
    """What a method of a predictor returns: in a thread, or here if it is a coroutine's."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments)
    return await thread.call(method, *arguments)
