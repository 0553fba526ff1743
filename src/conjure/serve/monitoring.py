"""What the server counts and times: requests, tokens, waiting, by vLLM's names with a prefix of our own.

Main entries: `Monitoring`, `RequestClock`. Invariant: intervals are of one monotonic clock; nothing of a
prompt or a text is kept.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from conjure.http.generation.requests import Event, TokenWritten
from conjure.http.metrics_text import Labels, Metrics

PREFIX = "conjure:"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Monitoring:
    """The metrics of an API server.

    Args:
        running: Texts being written, by model.
        waiting: Requests that wait.
    """

    def __init__(self, running: Callable[[], Mapping[str, int]], waiting: Callable[[], int]) -> None:
        metrics = self.metrics = Metrics(PREFIX)
        metrics.gauge(
            "num_requests_running", "Texts being generated or scored.", lambda: _by_model(running())
        )
        metrics.gauge("num_requests_waiting", "Requests waiting in the queue.", lambda: {(): waiting()})
        metrics.counter("prompt_tokens_total", "Tokens of prompts.")
        metrics.counter("generation_tokens_total", "Tokens generated.")
        metrics.counter("request_success_total", "Completed texts, by finish reason.")
        metrics.counter("requests_total", "Requests received.")
        metrics.histogram("request_queue_time_seconds", "Time in the queue.", _SECONDS)
        metrics.histogram("time_to_first_token_seconds", "Time to the first token.", _SECONDS)
        metrics.histogram("inter_token_latency_seconds", "Time between tokens of a text.", _TOKEN_SECONDS)
        metrics.histogram("e2e_request_latency_seconds", "Total time of a request.", _SECONDS)

    @property
    def served(self) -> tuple[float, float]:
        """Requests taken in and tokens generated so far."""
        return self.metrics.total("requests_total"), self.metrics.total("generation_tokens_total")


class RequestClock:
    """Times one request."""

    def __init__(self, monitoring: Monitoring, model: str) -> None:
        self._metrics, self._model = monitoring.metrics, model
        self._started = time.monotonic()
        self._last: dict[tuple[int, int], float] = {}

    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Count the request, and the tokens of its prompts."""
        self._metrics.add("requests_total", model_name=self._model)
        self._metrics.add("prompt_tokens_total", sum(map(len, prompts)), model_name=self._model)

    def queued(self, seconds: float) -> None:
        """Take in how long it waited."""
        self._metrics.observe("request_queue_time_seconds", seconds, model_name=self._model)

    def written(self, events: Sequence[Event]) -> None:
        """Take in what came."""
        now = time.monotonic()
        for each in events:
            if isinstance(each, TokenWritten):
                self._token((each.prompt, each.sample), now)
                if each.finish_reason is not None:
                    self._metrics.add(
                        "request_success_total", model_name=self._model, finished_reason=each.finish_reason
                    )
        tokens = sum(isinstance(each, TokenWritten) for each in events)
        self._metrics.add("generation_tokens_total", tokens, model_name=self._model)

    def ended(self) -> None:
        """The answer is complete."""
        self._metrics.observe(
            "e2e_request_latency_seconds", time.monotonic() - self._started, model_name=self._model
        )

    def _token(self, text: tuple[int, int], now: float) -> None:
        if not self._last:
            self._metrics.observe("time_to_first_token_seconds", now - self._started, model_name=self._model)
        if text in self._last:
            self._metrics.observe(
                "inter_token_latency_seconds", now - self._last[text], model_name=self._model
            )
        self._last[text] = now


def _by_model(running: Mapping[str, int]) -> dict[Labels, float]:
    return {(("model_name", name),): float(count) for name, count in running.items()}
