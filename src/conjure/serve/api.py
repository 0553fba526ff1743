"""The routes of the API.

Main entries: `Api`, `routes`. Invariant: a request takes its place in the queue before its body is read, and
gives it and its rows back however it ends.
"""

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from conjure.http.daemon_threads import in_daemon_thread
from conjure.http.errors import HttpError, JsonResponse, bad_value, unavailable
from conjure.http.event_stream import EventStream, until_disconnected
from conjure.http.generation.model_registry import ModelRegistry
from conjure.http.generation.requests import Event, GenerationJob
from conjure.http.generation.served_model import ServedModel
from conjure.http.generation.service import GenerationService, Ticket
from conjure.http.metrics_text import CONTENT_TYPE
from conjure.http.request_body import LONG_BODY, read_json_object
from conjure.serve.chat import ChatResponse, answer_chat, stream_chat
from conjure.serve.chat_request import read_chat_request
from conjure.serve.completion_request import read_completion_request
from conjure.serve.completions import CompletionResponse, complete, stream_completion
from conjure.serve.monitoring import Monitoring, RequestClock
from conjure.serve.tokenizer_routes import detokenize, tokenize, tokenizer_info

bodies_log = logging.getLogger("conjure.serve.bodies")

OPEN_PATHS = ("/health",)
ADVICE = {f"/{name}": f"/v1/{name}" for name in ("completions", "chat/completions", "models")} | {
    f"/v1/{name}": f"/{name}" for name in ("tokenize", "detokenize", "tokenizer_info", "health", "metrics")
}


class Api:
    """What the routes work with.

    Attributes:
        ready: Whether the first model is loaded.
        monitoring: What is counted.
    """

    def __init__(
        self, registry: ModelRegistry, service: GenerationService, *, log_prompts: bool = False
    ) -> None:
        self.registry, self.service = registry, service
        self._log_prompts = log_prompts
        self.monitoring = Monitoring(lambda: service.running, lambda: service.waiting)
        self.ready = False
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """All routes."""
        post = ["POST"]
        return [
            Route("/v1/completions", self.completions, methods=post),
            Route("/v1/chat/completions", self.chat_completions, methods=post),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.one_model),
            Route("/tokenize", self.tokenize, methods=post),
            Route("/detokenize", self.detokenize, methods=post),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/health", self.health),
            Route("/ready", self.is_ready),
            Route("/metrics", self.show_metrics),
        ]

    async def completions(self, request: Request) -> Any:
        """``POST /v1/completions``."""
        return await self._answer(request, _COMPLETIONS)

    async def chat_completions(self, request: Request) -> Any:
        """``POST /v1/chat/completions``."""
        return await self._answer(request, _CHAT)

    async def _answer(self, request: Request, kind: "_Kind") -> Any:
        """Read a request, compute, and answer at once or as a stream."""
        ticket = self._enter()
        try:
            body = await read_json_object(request)
            if self._log_prompts:
                bodies_log.info("%s", await _in_thread(request, json.dumps, body))
            model = await self._model_of(body)
            call = await _in_thread(request, kind.read, body, model, blocks=kind.read_blocks)
            if call.job.prompt_logprobs is not None:
                await in_daemon_thread(model.exact)
        except BaseException:
            ticket.give_back()
            raise
        clock = RequestClock(self.monitoring, model.name)
        clock.read(call.job.prompts)
        response = kind.response(call, model, body["model"])
        events = self._events(model, call.job, ticket, clock)
        if call.options.stream:
            return _Streamed(kind.stream(response, events), events, ticket, clock)
        try:
            async with aclosing(events):
                content = await until_disconnected(request.receive, kind.complete(response, events))
        finally:
            ticket.give_back()
        if content is None:
            return Response(status_code=499)
        clock.ended()
        return Response(content, media_type=JsonResponse.media_type)

    async def models(self, request: Request) -> JsonResponse:  # noqa: ARG002
        """``GET /v1/models``."""
        return JsonResponse(
            {"object": "list", "data": [self._described(each.name) for each in self.registry.given]}
        )

    async def one_model(self, request: Request) -> JsonResponse:
        """``GET /v1/models/{name}``."""
        return JsonResponse(self._described(self.registry.name_of(request.path_params["name"])))

    async def tokenize(self, request: Request) -> JsonResponse:
        """``POST /tokenize``."""
        body = await read_json_object(request)
        model = await self._model_of(body, default=True)
        return JsonResponse(await _in_thread(request, tokenize, body, model))

    async def detokenize(self, request: Request) -> JsonResponse:
        """``POST /detokenize``."""
        body = await read_json_object(request)
        model = await self._model_of(body, default=True)
        return JsonResponse(await _in_thread(request, detokenize, body, model))

    async def tokenizer_info(self, request: Request) -> JsonResponse:
        """``GET /tokenizer_info``."""
        name = request.query_params.get("model")
        return JsonResponse(tokenizer_info(await self._model_of({"model": name}, default=True)))

    async def health(self, request: Request) -> JsonResponse:  # noqa: ARG002
        """``GET /health``: whether the server works; no key is needed."""
        if not self.service.is_healthy:
            raise HttpError(503, "the server has stopped generating; restart it", code="unhealthy")
        self._check_ready()
        return JsonResponse({"status": "ok"})

    async def is_ready(self, request: Request) -> JsonResponse:
        """``GET /ready``: whether it would take a request now."""
        await self.health(request)
        self.service.enter().give_back()
        return JsonResponse({"status": "ready"})

    async def show_metrics(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /metrics``, for Prometheus."""
        return Response(self.monitoring.metrics.render(), media_type=CONTENT_TYPE)

    def _enter(self) -> Ticket:
        self._check_ready()
        return self.service.enter()

    def _check_ready(self) -> None:
        if not self.ready:
            raise unavailable("the model is being loaded; try again in a moment")

    async def _model_of(self, body: Mapping[str, Any], *, default: bool = False) -> ServedModel:
        """The model that a request names; where `default` is set, the first one if it names none."""
        self._check_ready()
        name = body.get("model")
        if name is None and default:
            name = self.registry.given[0].name
        if not isinstance(name, str):
            raise bad_value("model", "is required" if name is None else "must be a string")
        return await self.registry.get(name)

    async def _events(
        self, model: ServedModel, job: GenerationJob, ticket: Ticket, clock: RequestClock
    ) -> AsyncGenerator[list[Event], None]:
        """Events of a job that is worked on while they are asked for."""
        if not job.computes:
            yield []
            return
        async with self.service.submitted(model, job) as submitted:
            async for events in self.service.events(submitted):
                is_first = ticket.waited_s is None
                ticket.follow(job, events)
                if is_first:
                    clock.queued(ticket.waited_s or 0.0)
                clock.written(events)
                yield events

    def _described(self, name: str) -> dict[str, Any]:
        described = {"id": name, "object": "model", "created": self._started, "owned_by": "conjure"}
        model = self.registry.loaded.get(name)
        return described | ({"max_model_len": model.context_length} if model is not None else {})


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is particular to a route that generates.

    Attributes:
        read: Checks a request.
        response: What is common to the parts of a response.
        complete: The whole answer, as JSON.
        stream: The answer as events.
        read_blocks: Whether `read` waits for another process, however short the request is.
    """

    read: Callable[[Mapping[str, Any], ServedModel], Any]
    response: Callable[[Any, ServedModel, str], Any]
    complete: Callable[[Any, AsyncGenerator[list[Event], None]], Coroutine[Any, Any, bytes]]
    stream: Callable[[Any, AsyncGenerator[list[Event], None]], AsyncGenerator[bytes, None]]
    read_blocks: bool = False


_COMPLETIONS = _Kind(read_completion_request, CompletionResponse, complete, stream_completion)
_CHAT = _Kind(read_chat_request, ChatResponse, answer_chat, stream_chat, read_blocks=True)  # for the template


class _Streamed:
    """A stream that gives everything back, even if it is never begun."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        events: AsyncGenerator[list[Event], None],
        ticket: Ticket,
        clock: RequestClock,
    ) -> None:
        self._stream = EventStream(parts)
        self._events, self._ticket, self._clock = events, ticket, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await self._stream(scope, receive, send)
            if self._stream.complete:
                self._clock.ended()
        finally:
            await self._events.aclose()
            self._ticket.give_back()


async def _in_thread(request: Request, work: Any, *arguments: Any, blocks: bool = False) -> Any:
    """What `work` gives; not in the event loop where it blocks, or the body was long."""
    length = request.headers.get("content-length", "")
    if not blocks and length.isdecimal() and int(length) <= LONG_BODY:
        return work(*arguments)
    return await in_daemon_thread(work, *arguments)
