"""The rows of one model that are computed together: they join, get tokens step by step, and leave.

Main entry: `RowBatch`. Invariant: rows never see each other; a step reads at most `budget` tokens of prompts
beside one token of each row that is being written, so that no row waits long for another's prompt.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from conjure.http.generation.requests import Failed, GenerationJob, TokenLogprob, TokenWritten
from conjure.http.generation.rows import Row
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.logit_adjustments import LogitSettings, adjusted
from conjure.lm.generation.sampling import no_numbers, sample_tokens
from conjure.lm.native.logits import largest, logit_summary
from conjure.lm.text.tokenizer import Tokenizer

_PIECE = 32  # tokens of one prompt read in one step
_PIECES = 2  # of several prompts in one step, where others wait for a next token
_PIECES_ALONE = 8  # where nobody does


@dataclass(eq=False, slots=True)
class _Prompt:
    """A prompt in the session, and the rows that go on from it."""

    rows: list[Row]
    unread: int
    reading: bool = True


class RowBatch:
    """Rows of one engine's session.

    Args:
        engine: Computes logits.
        tokenizer: The model's own.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._session = engine.session()
        self._tokenizer = tokenizer
        self._bytes_per_token = engine.bytes_per_token
        self._held: dict[int, _Prompt] = {}  # by the session's row number, in the order they came
        self._without_token: np.ndarray | None = None

    def __len__(self) -> int:
        """Texts that are being written."""
        return sum(len(each.rows) for each in self._held.values())

    @property
    def jobs(self) -> list[GenerationJob]:
        """The jobs of all rows; one may be there several times."""
        return [held.rows[0].job for held in self._held.values()]

    @property
    def bytes(self) -> int:
        """Memory that the rows' keys and values may come to take."""
        return self._bytes_per_token * sum(
            len(each.rows) * each.rows[0].capacity for each in self._held.values()
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Take in rows of one prompt, which is read once for all of them."""
        ids = list(rows[0].job.prompts[rows[0].prompt])
        (number,) = self._session.add([ids], [max(row.capacity for row in rows)])
        self._held[number] = _Prompt(list(rows), len(ids))

    def drop(self, job: GenerationJob) -> None:
        """Forget all rows of a job."""
        leaving = [number for number, held in self._held.items() if held.rows[0].job is job]
        for number in leaving:
            del self._held[number]
        if leaving:
            self._session.drop(leaving)

    def step(self) -> list[tuple[Row, TokenWritten | Failed]]:
        """Read on, and give every row whose prompt has been read its next token.

        Returns:
            What happened to which row; rows that ended or failed are no longer in the batch.
        """
        reading = self._next_prompts()
        writing = [number for number, held in self._held.items() if not held.reading]
        ready, logits = self._session.step([*writing, *reading], _PIECE)
        for number in reading:
            self._held[number].unread -= _PIECE
        for number in ready:
            self._held[number].reading = False
        rows = [row for number in ready for row in self._held[number].rows]
        if len(rows) > len(ready):
            logits = np.repeat(logits, [len(self._held[number].rows) for number in ready], axis=0)
        told = self._written(rows, logits) if rows else []
        return [*told, *self._go_on(ready)]

    def _next_prompts(self) -> list[int]:
        """Prompts to read a piece of: the oldest, and more while that costs nobody much time."""
        reading = [(number, held) for number, held in self._held.items() if held.reading]
        budget = _PIECE * (_PIECES if len(reading) < len(self._held) else _PIECES_ALONE)
        chosen: list[int] = []
        for number, held in reading:
            cost = min(held.unread, _PIECE)
            if chosen and cost > budget:
                break
            budget -= cost
            chosen.append(number)
        return chosen

    def _written(self, rows: list[Row], logits: np.ndarray) -> list[tuple[Row, TokenWritten | Failed]]:
        if self._without_token is None:
            self._without_token = np.array(self._tokenizer.ids_without_token(logits.shape[1]), np.int64)
        tokens = choose_tokens(rows, logits, self._without_token)
        return [
            (row, row.take(token) if isinstance(token, TokenLogprob) else token)
            for row, token in zip(rows, tokens, strict=True)
        ]

    def _go_on(self, ready: Iterable[int]) -> Iterator[tuple[Row, Failed]]:
        """Prepare rows that got a token for the next step, and drop those that ended.

        Yields:
            The rows of a prompt that there is no memory to copy for them.
        """
        for number in ready:
            held = self._held.pop(number)
            going = [row for row in held.rows if not row.finished]
            if not going:
                self._session.drop([number])
                continue
            try:
                numbers = [number, *self._session.fork(number, len(going) - 1)]
            except MemoryError as error:
                self._session.drop([number])
                yield from ((row, _end_failed(row, error)) for row in going)
                continue
            for each, row in zip(numbers, going, strict=True):
                self._held[each] = _Prompt([row], 0, reading=False)
                self._session.append(each, row.token_ids[-1])


def choose_tokens(
    rows: Sequence[Row], logits: np.ndarray, without_token: np.ndarray
) -> list[TokenLogprob | Failed]:
    """The next token of each row, (R,); a row whose logits are not numbers has failed, and it alone.

    Args:
        rows: Each with the tokens it has.
        logits: Of their next tokens, float32, (R, V).
        without_token: Ids that mean nothing and are never chosen.
    """
    logsumexp, argmax = logit_summary(logits)
    numbers = np.isfinite(logsumexp)
    if numbers.all():
        return [*_chosen(rows, logits, without_token, logsumexp, argmax)]
    sound = [row for row, sound in zip(rows, numbers, strict=True) if sound]
    chosen = _chosen(sound, logits[numbers], without_token, logsumexp[numbers], argmax[numbers])
    return [
        next(chosen) if sound else _end_failed(row, no_numbers())
        for row, sound in zip(rows, numbers, strict=True)
    ]


def _chosen(
    rows: Sequence[Row],
    logits: np.ndarray,
    without_token: np.ndarray,
    logsumexp: np.ndarray,
    argmax: np.ndarray,
) -> Iterator[TokenLogprob]:
    """The next token of rows whose logits are numbers; the last two are `logit_summary`'s."""
    chosen = np.empty(len(rows), np.int64)
    for settings, numbers in _alike(rows).items():
        same = slice(None) if len(numbers) == len(rows) else numbers
        if settings.takes_likeliest and not len(without_token):
            chosen[same] = argmax[same]
        else:
            members = [rows[number] for number in numbers]
            chosen[same] = _sampled(members, logits[same], settings, without_token)
    logprobs = logits[np.arange(len(rows)), chosen] - logsumexp
    top = _top_logprobs(rows, logits, logsumexp)
    for token_id, logprob, likeliest in zip(chosen.tolist(), logprobs.tolist(), top, strict=True):
        yield TokenLogprob(token_id, logprob, likeliest)


def _end_failed(row: Row, error: Exception) -> Failed:
    row.finished = True
    return Failed(error)


def _alike(rows: Sequence[Row]) -> dict[LogitSettings, list[int]]:
    """Numbers of rows by their settings: those with the same are chosen for together."""
    alike: dict[LogitSettings, list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row.job.settings, []).append(number)
    return alike


def _sampled(
    rows: Sequence[Row], logits: np.ndarray, settings: LogitSettings, without_token: np.ndarray
) -> np.ndarray:
    if settings.adjusts:
        changed = [
            adjusted(own, row.token_ids, settings, row.ends) for row, own in zip(rows, logits, strict=True)
        ]
        logits = np.stack(changed)
    if len(without_token):
        logits = logits.copy()
        logits[:, without_token] = -np.inf
    histories = [
        [*row.job.prompts[row.prompt], *row.token_ids] if settings.looks_back else [] for row in rows
    ]
    streams, steps = [row.stream for row in rows], [len(row.token_ids) for row in rows]
    return sample_tokens(logits, histories, streams, steps, settings)


def _top_logprobs(
    rows: Sequence[Row], logits: np.ndarray, logsumexp: np.ndarray
) -> list[Sequence[tuple[int, float]]]:
    """The likeliest tokens that each row wants to know of."""
    top: list[Sequence[tuple[int, float]]] = [()] * len(rows)
    for number, row in enumerate(rows):
        if row.job.top_logprobs:
            own = logits[number : number + 1]
            ids = largest(own, row.job.top_logprobs)[0]
            values = own[0, ids] - logsumexp[number]
            order = np.argsort(-values, kind="stable")
            top[number] = list(zip(ids[order].tolist(), values[order].tolist(), strict=True))
    return top
