"""All work for one model: sequences being written, prompts being scored, and what waits for room.

Main entry: `ModelWorker`. Invariant: it belongs to the thread that computes; sequences join in the order
their jobs came, and only while there is room for all they may come to hold. Jobs are scored one after the
other, for each that has begun holds the keys and values of a whole prompt.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from conjure.http.generation.batch import SequenceBatch, choose_tokens
from conjure.http.generation.requests import (
    Event,
    Failed,
    GenerationJob,
    PromptScored,
    Started,
    TokenLogprob,
)
from conjure.http.generation.sequences import GeneratedSequence
from conjure.http.generation.served_model import ServedModel
from conjure.lm.generation.prompt_logprobs import PromptLogprobs

JobEvent = tuple[GenerationJob, Event]


class ModelWorker:
    """The work for one model.

    Args:
        model: Computes.
        most_rows: Texts written at once.
        most_bytes: Memory of their keys and values; one prompt's texts are taken in even beyond it.
    """

    def __init__(self, model: ServedModel, *, most_rows: int, most_bytes: int) -> None:
        self.model = model
        self._most_rows, self._most_bytes = most_rows, most_bytes
        self._batch = SequenceBatch(model.engine, model.tokenizer)
        self._waiting: deque[list[GeneratedSequence]] = deque()  # the texts of one prompt
        self._scoring: deque[tuple[GenerationJob, Iterator[list[Event]]]] = deque()

    @property
    def running(self) -> int:
        """Texts being written, and the job being scored."""
        return len(self._batch) + bool(self._scoring)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting) or self.running > 0

    def add(self, job: GenerationJob) -> None:
        """Take in a job; its sequences join when there is room."""
        if job.prompt_logprobs is not None:
            self._scoring.append((job, self._score(job)))
        if not job.texts_written:
            return
        for prompt in range(len(job.prompts)):
            sequences = [
                GeneratedSequence(job, prompt, sample, self.model.tokenizer) for sample in range(job.samples)
            ]
            for start in range(0, len(sequences), self._most_rows):
                self._waiting.append(sequences[start : start + self._most_rows])

    def drop(self, job: GenerationJob) -> None:
        """Forget everything of a job."""
        self._batch.drop(job)
        self._waiting = deque(sequences for sequences in self._waiting if sequences[0].job is not job)
        self._scoring = deque(each for each in self._scoring if each[0] is not job)

    def work(self) -> list[JobEvent]:
        """One step of writing and one piece of scoring; what there is to tell.

        Where work fails, the jobs it was for have failed, and no others.
        """
        told = self._admit()
        if len(self._batch):
            told += self._step()
        if self._scoring:
            told += self._score_on()
        return told

    def _admit(self) -> list[JobEvent]:
        """Let sequences join while there is room."""
        told: list[JobEvent] = []
        while self._waiting:
            sequences = self._waiting[0]
            job = sequences[0].job
            fits = len(self._batch) + len(sequences) <= self._most_rows
            if len(self._batch) and not (fits and self._batch.bytes_with(sequences) <= self._most_bytes):
                break
            self._waiting.popleft()
            try:
                self._batch.add(sequences)
                told.append((job, Started()))
            except Exception as error:  # noqa: BLE001 - the client must hear of it, and others go on
                self.drop(job)
                told.append((job, Failed(error)))
        return told

    def _step(self) -> list[JobEvent]:
        jobs = self._batch.jobs  # a step that fails may have left some behind already
        try:
            told: list[JobEvent] = [(sequence.job, event) for sequence, event in self._batch.step()]
        except Exception as error:  # noqa: BLE001 - of the engine as a whole: all its sequences are lost
            self._batch = SequenceBatch(self.model.engine, self.model.tokenizer)
            told = [(job, Failed(error)) for job in {id(job): job for job in jobs}.values()]
        for job, event in told:
            if isinstance(event, Failed):
                self.drop(job)
        return told

    def _score_on(self) -> list[JobEvent]:
        """One piece of the job that came first."""
        job, pieces = self._scoring[0]
        try:
            events = next(pieces, None)
        except Exception as error:  # noqa: BLE001 - the client must hear of it, and others go on
            self.drop(job)
            return [(job, Failed(error))]
        if events is None:
            self._scoring.popleft()
        return [(job, event) for event in events or ()]

    def _score(self, job: GenerationJob) -> Iterator[list[Event]]:
        """Events of a job's prompts, piece by piece of the work."""
        assert job.prompt_logprobs is not None
        work = PromptLogprobs(self.model.exact(), job.prompts, job.prompt_logprobs)
        yield [Started()]
        for _ in work.pieces():
            yield []
        for number, (ids, scored) in enumerate(zip(job.prompts, work.scored, strict=True)):
            entries = zip(ids[1:], scored.logprobs, scored.top, scored.ranks, strict=True)
            yield [PromptScored(number, [TokenLogprob(*entry) for entry in entries])]
            if job.from_exact and job.max_tokens:
                sequences = [
                    GeneratedSequence(job, number, sample, self.model.tokenizer)
                    for sample in range(job.samples)
                ]
                yield list(self._exact_tokens(sequences, scored.following))

    def _exact_tokens(self, sequences: list[GeneratedSequence], following: np.ndarray) -> Iterator[Event]:
        """The one token of sequences whose prompt was scored."""
        logits = np.broadcast_to(following, (len(sequences), len(following))).copy()
        without_token = np.array(self.model.tokenizer.ids_without_token(len(following)), np.int64)
        for sequence, token in zip(sequences, choose_tokens(sequences, logits, without_token), strict=True):
            yield sequence.take(token) if isinstance(token, TokenLogprob) else token
