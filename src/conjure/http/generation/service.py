"""The thread that computes, the queue before it, and how answers come back to the event loop.

Main entries: `GenerationService`, `Ticket`. Invariant: one thread touches engines; no more than
`most_waiting` requests wait beside those that free slots will take, counted from before their bodies are
read; a job that is cancelled is out before the next step.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from conjure.http.errors import queue_full, unavailable
from conjure.http.generation.model_worker import ModelWorker
from conjure.http.generation.requests import Event, Failed, GenerationJob
from conjure.http.generation.served_model import ServedModel

_STUCK_AFTER_S = 60.0  # no step takes so long


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the service takes on.

    Attributes:
        most_rows: Texts of one model that are written at once.
        most_waiting: Requests that wait while all those texts are being written.
        most_bytes: Memory for keys and values of one model's texts.
    """

    most_rows: int = 64
    most_waiting: int = 256
    most_bytes: int = 640 << 20


@dataclass(eq=False)
class _Submitted:
    """A job on its way."""

    job: GenerationJob
    model: ServedModel
    events: "asyncio.Queue[list[Event]]" = field(default_factory=asyncio.Queue)
    started: bool = False


class Ticket:
    """A request's place: in the queue until work on it begins, then on slots until that ends.

    Each text takes one slot, and so does scoring.

    Attributes:
        waited_s: How long it stood in the queue, once that is over.
    """

    def __init__(self, places: "_Places") -> None:
        self._places = places
        self._since = time.monotonic()
        self._held = 0  # slots, as if there were enough of them
        self.waited_s: float | None = None
        places.waiting += 1

    def follow(self, job: GenerationJob, events: Sequence[Event]) -> None:
        """Take in what happened to its job: the first event ends the wait, and what ends frees its slot."""
        if self.waited_s is None:
            self._leave_queue()
            self._hold(job.slots)
        self._hold(max(0, self._held - sum(job.frees_slot(each) for each in events)))

    def give_back(self) -> None:
        """Leave the queue and the slots; doing it twice does no harm."""
        if self.waited_s is None:
            self._leave_queue()
        self._hold(0)

    def _leave_queue(self) -> None:
        self.waited_s = time.monotonic() - self._since
        self._places.waiting -= 1

    def _hold(self, held: int) -> None:
        slots = self._places.slots
        self._places.taken += min(held, slots) - min(self._held, slots)
        self._held = held


@dataclass(eq=False)
class _Places:
    """How much is taken, as the event loop knows it: the thread may be a step ahead.

    Attributes:
        slots: Texts that are written at once.
        queue: Requests that may wait for them.
        waiting: Requests that have not begun.
        taken: Slots of those that have.
    """

    slots: int
    queue: int
    waiting: int = 0
    taken: int = 0

    @property
    def is_full(self) -> bool:
        """Whether one request more would have to wait with more than may."""
        return self.waiting >= self.queue + max(0, self.slots - self.taken)


class GenerationService:
    """Runs jobs on models, all in one thread.

    Its methods belong to one event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Condition()
        self._arrivals: list[_Submitted] = []
        self._departures: list[_Submitted] = []
        self._submitted: dict[int, _Submitted] = {}  # by the id of the job; the thread's own
        self._workers: dict[int, ModelWorker] = {}  # by the id of the model; the thread's own
        self._ended = False
        self._draining = False
        self._places = _Places(limits.most_rows, limits.most_waiting)
        self._beat = time.monotonic()
        self._open: set[_Submitted] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to compute; jobs are told of in the event loop that calls this."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait, or are about to begin."""
        return self._places.waiting

    @property
    def running(self) -> dict[str, int]:
        """Texts being written now, by the name of the model."""
        running: dict[str, int] = {}
        for worker in list(self._workers.values()):  # a name that was moved has one for each of its models
            running[worker.model.name] = running.get(worker.model.name, 0) + worker.running
        return running

    @property
    def is_healthy(self) -> bool:
        """Whether the thread lives, and has not been in one step for a minute."""
        return self._thread.is_alive() and time.monotonic() - self._beat < _STUCK_AFTER_S

    def enter(self) -> Ticket:
        """A place in the queue, or on a slot that is free.

        Raises:
            HttpError: 429 where none is free, 503 where the server is shutting down.
        """
        if self._draining:
            raise unavailable("the server is shutting down")
        if self._places.is_full:
            raise queue_full(self._places.waiting)
        return Ticket(self._places)

    @asynccontextmanager
    async def submitted(self, model: ServedModel, job: GenerationJob) -> AsyncGenerator["_Submitted", None]:
        """A job being worked on, until the block ends; see `events`."""
        submitted = _Submitted(job, model)
        self._open.add(submitted)
        with self._lock:
            self._arrivals.append(submitted)
            self._lock.notify()
        try:
            yield submitted
        finally:
            self._open.discard(submitted)
            with self._lock:
                self._departures.append(submitted)
                self._lock.notify()

    async def events(self, submitted: _Submitted) -> AsyncGenerator[list[Event], None]:
        """What happens, as it happens, several events at once where they came together.

        Raises:
            Exception: The job failed.
        """
        while True:
            events = await submitted.events.get()
            for event in events:
                if isinstance(event, Failed):
                    raise event.error
            yield events

    def drain(self) -> None:
        """Take no new requests."""
        self._draining = True

    def abort(self) -> None:
        """End every job that is going on."""
        self._draining = True
        for submitted in self._open:
            submitted.events.put_nowait([Failed(unavailable("the server is shutting down"))])

    def end(self) -> None:
        """Let the thread end; it does after its step."""
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._thread.join(_STUCK_AFTER_S)

    def _run(self) -> None:
        while self._take_in():
            self._beat = time.monotonic()
            told: list[tuple[_Submitted, Event]] = []
            for worker in list(self._workers.values()):
                if worker.has_work:
                    told += [(self._submitted[id(job)], event) for job, event in worker.work()]
            if told and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_hand_over, told)

    def _take_in(self) -> bool:
        """Take in what came and drop what went; wait while there is nothing to do. False at the end."""
        with self._lock:
            while not (self._arrivals or self._departures or self._ended or self._has_work):
                self._lock.wait(_STUCK_AFTER_S / 4)
                self._beat = time.monotonic()
            arrivals, self._arrivals = self._arrivals, []
            departures, self._departures = self._departures, []
        for each in arrivals:
            self._submitted[id(each.job)] = each
            self._worker_of(each.model).add(each.job)
        for each in departures:
            if self._submitted.pop(id(each.job), None) is not None:
                self._worker_of(each.model).drop(each.job)
        for key, worker in list(self._workers.items()):
            if worker.model.retired and not worker.has_work:
                del self._workers[key]
        return not self._ended

    @property
    def _has_work(self) -> bool:
        return any(worker.has_work for worker in self._workers.values())

    def _worker_of(self, model: ServedModel) -> ModelWorker:
        if id(model) not in self._workers:
            limits = self.limits
            self._workers[id(model)] = ModelWorker(
                model, most_rows=limits.most_rows, most_bytes=limits.most_bytes
            )
        return self._workers[id(model)]


def _hand_over(told: list[tuple[_Submitted, Event]]) -> None:
    """In the event loop: give each job its events of one step at once."""
    by_job: dict[int, tuple[_Submitted, list[Event]]] = {}
    for submitted, event in told:
        by_job.setdefault(id(submitted), (submitted, []))[1].append(event)
    for submitted, events in by_job.values():
        submitted.events.put_nowait(events)
