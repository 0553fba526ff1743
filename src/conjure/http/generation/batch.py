"""The sequences of one model that are computed together: they join, get tokens step by step, and leave.

Main entry: `SequenceBatch`. Invariant: sequences never see each other; a step reads at most `budget` tokens
of prompts beside one token of each sequence that is being written, so that none waits long for the prompt of
another one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from conjure.http.generation.requests import Failed, GenerationJob, TokenLogprob, TokenWritten
from conjure.http.generation.sequences import GeneratedSequence
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
    """A prompt in the session, and the sequences that go on from it."""

    sequences: list[GeneratedSequence]
    unread: int
    reading: bool = True


class SequenceBatch:
    """Sequences that are rows of one engine's session.

    Args:
        engine: Computes logits.
        tokenizer: The model's own.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._session = engine.session()
        self._tokenizer = tokenizer
        self._engine = engine
        self._held: dict[int, _Prompt] = {}  # by the session's row number, in the order they came
        self._without_token: np.ndarray | None = None

    def __len__(self) -> int:
        """Texts that are being written; other threads may ask while that changes."""
        return sum(len(each.sequences) for each in list(self._held.values()))

    @property
    def jobs(self) -> list[GenerationJob]:
        """The jobs of all sequences; one may be there several times."""
        return [held.sequences[0].job for held in self._held.values()]

    def bytes_with(self, sequences: Sequence[GeneratedSequence]) -> int:
        """Memory that the keys and values of all sequences, and of some more, may come to take."""
        held = [sequence for each in self._held.values() for sequence in each.sequences]
        return self._engine.bytes_of([(each.length, each.capacity) for each in (*held, *sequences)])

    def add(self, sequences: Sequence[GeneratedSequence]) -> None:
        """Take in sequences of one prompt, which is read once for all of them."""
        ids = list(sequences[0].job.prompts[sequences[0].prompt])
        (number,) = self._session.add([ids], [max(sequence.capacity for sequence in sequences)])
        self._held[number] = _Prompt(list(sequences), len(ids))

    def drop(self, job: GenerationJob) -> None:
        """Forget all sequences of a job."""
        leaving = [number for number, held in self._held.items() if held.sequences[0].job is job]
        for number in leaving:
            del self._held[number]
        if leaving:
            self._session.drop(leaving)

    def step(self) -> list[tuple[GeneratedSequence, TokenWritten | Failed]]:
        """Read on, and give every sequence whose prompt has been read its next token.

        Returns:
            What happened to which sequence; sequences that ended or failed are no longer in the batch.
        """
        reading = self._next_prompts()
        writing = [number for number, held in self._held.items() if not held.reading]
        ready, logits = self._session.step([*writing, *reading], _PIECE)
        for number in reading:
            self._held[number].unread -= _PIECE
        for number in ready:
            self._held[number].reading = False
        sequences = [sequence for number in ready for sequence in self._held[number].sequences]
        if len(sequences) > len(ready):
            logits = np.repeat(logits, [len(self._held[number].sequences) for number in ready], axis=0)
        told = self._written(sequences, logits) if sequences else []
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

    def _written(
        self, sequences: list[GeneratedSequence], logits: np.ndarray
    ) -> list[tuple[GeneratedSequence, TokenWritten | Failed]]:
        if self._without_token is None:
            self._without_token = np.array(self._tokenizer.ids_without_token(logits.shape[1]), np.int64)
        tokens = choose_tokens(sequences, logits, self._without_token)
        return [
            (sequence, sequence.take(token) if isinstance(token, TokenLogprob) else token)
            for sequence, token in zip(sequences, tokens, strict=True)
        ]

    def _go_on(self, ready: Iterable[int]) -> Iterator[tuple[GeneratedSequence, Failed]]:
        """Prepare sequences that got a token for the next step, and drop those that ended.

        Yields:
            The sequences of a prompt that there is no memory to copy for them.
        """
        for number in ready:
            held = self._held.pop(number)
            going = [sequence for sequence in held.sequences if not sequence.finished]
            if not going:
                self._session.drop([number])
                continue
            try:
                numbers = [number, *self._session.fork(number, len(going) - 1)]
            except MemoryError as error:
                self._session.drop([number])
                yield from ((sequence, _end_failed(sequence, error)) for sequence in going)
                continue
            for each, sequence in zip(numbers, going, strict=True):
                self._held[each] = _Prompt([sequence], 0, reading=False)
                self._session.append(each, sequence.token_ids[-1])


def choose_tokens(
    sequences: Sequence[GeneratedSequence], logits: np.ndarray, without_token: np.ndarray
) -> list[TokenLogprob | Failed]:
    """The next token of each sequence, (R,); one whose logits are not numbers has failed, and it alone.

    Args:
        sequences: Each with the tokens it has.
        logits: Of their next tokens, float32, (R, V).
        without_token: Ids that mean nothing and are never chosen.
    """
    logsumexp, argmax = logit_summary(logits)
    numbers = np.isfinite(logsumexp)
    if numbers.all():
        return [*_chosen(sequences, logits, without_token, logsumexp, argmax)]
    sound = [sequence for sequence, sound in zip(sequences, numbers, strict=True) if sound]
    chosen = _chosen(sound, logits[numbers], without_token, logsumexp[numbers], argmax[numbers])
    return [
        next(chosen) if sound else _end_failed(sequence, no_numbers())
        for sequence, sound in zip(sequences, numbers, strict=True)
    ]


def _chosen(
    sequences: Sequence[GeneratedSequence],
    logits: np.ndarray,
    without_token: np.ndarray,
    logsumexp: np.ndarray,
    argmax: np.ndarray,
) -> Iterator[TokenLogprob]:
    """The next token of sequences whose logits are numbers; the last two are `logit_summary`'s."""
    chosen = np.empty(len(sequences), np.int64)
    for settings, numbers in _alike(sequences).items():
        same = slice(None) if len(numbers) == len(sequences) else numbers
        if settings.takes_likeliest and not len(without_token):
            chosen[same] = argmax[same]
        else:
            members = [sequences[number] for number in numbers]
            chosen[same] = _sampled(members, logits[same], settings, without_token)
    logprobs = logits[np.arange(len(sequences)), chosen] - logsumexp
    top = _top_logprobs(sequences, logits, logsumexp)
    for token_id, logprob, likeliest in zip(chosen.tolist(), logprobs.tolist(), top, strict=True):
        yield TokenLogprob(token_id, logprob, likeliest)


def _end_failed(sequence: GeneratedSequence, error: Exception) -> Failed:
    sequence.finished = True
    return Failed(error)


def _alike(sequences: Sequence[GeneratedSequence]) -> dict[LogitSettings, list[int]]:
    """Numbers of sequences by their settings: those with the same are chosen for together."""
    alike: dict[LogitSettings, list[int]] = {}
    for number, sequence in enumerate(sequences):
        alike.setdefault(sequence.job.settings, []).append(number)
    return alike


def _sampled(
    sequences: Sequence[GeneratedSequence],
    logits: np.ndarray,
    settings: LogitSettings,
    without_token: np.ndarray,
) -> np.ndarray:
    if settings.adjusts:
        changed = [
            adjusted(own, sequence.token_ids, settings, sequence.ends)
            for sequence, own in zip(sequences, logits, strict=True)
        ]
        logits = np.stack(changed)
    if len(without_token):
        logits = logits.copy()
        logits[:, without_token] = -np.inf
    histories = [
        [*sequence.job.prompts[sequence.prompt], *sequence.token_ids] if settings.looks_back else []
        for sequence in sequences
    ]
    streams, steps = (
        [sequence.stream for sequence in sequences],
        [len(sequence.token_ids) for sequence in sequences],
    )
    return sample_tokens(logits, histories, streams, steps, settings)


def _top_logprobs(
    sequences: Sequence[GeneratedSequence], logits: np.ndarray, logsumexp: np.ndarray
) -> list[Sequence[tuple[int, float]]]:
    """The likeliest tokens that each sequence wants to know of."""
    top: list[Sequence[tuple[int, float]]] = [()] * len(sequences)
    for number, sequence in enumerate(sequences):
        if sequence.job.top_logprobs:
            own = logits[number : number + 1]
            ids = largest(own, sequence.job.top_logprobs)[0]
            values = own[0, ids] - logsumexp[number]
            order = np.argsort(-values, kind="stable")
            top[number] = list(zip(ids[order].tolist(), values[order].tolist(), strict=True))
    return top
