"""What a model does that a report looks at: the samples it writes, and what it makes of held-out text.

Main entries: `observe`, before and after training; `record_texts` and `held_out_texts` for the texts.
Invariant: the same model, request and texts give the same observation.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from conjure.lm.generation.generate import GenerationRequest, Sample, generate
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.models.gpt2 import GPT2
from conjure.lm.report.statistics import FEWEST_GROUPS, stretches
from conjure.lm.text.held_out import TokenStream
from conjure.lm.text.tokenizer import Tokenizer

_READ_TOKENS = 1 << 16
FEWEST_SCORED_TOKENS = 20_000  # held-out ones, however few training processed: an error of about 0.02 nats


@dataclass(frozen=True, slots=True)
class Observation:
    """One model, observed.

    Attributes:
        name: What to call it.
        samples: What it wrote, without a prompt.
        scores: Log-probability of each held-out text, or of each stretch of it.
        windows: The protocol they were scored by.
    """

    name: str
    samples: Sequence[Sample]
    scores: Sequence[Tally]
    windows: Windows


def observe(
    name: str,
    model: GPT2,
    tokenizer: Tokenizer,
    held_out: Sequence[str],
    request: GenerationRequest,
    *,
    in_stretches: bool = False,
) -> Observation:
    """Let a model write, and score held-out texts.

    Args:
        name: What to call it.
        model: The model, as it is now.
        tokenizer: Its own.
        held_out: Texts that the tuned model was not trained on; may be none.
        request: What to write. Its prompt should be the empty one: the start of a record.
        in_stretches: Tell the scores of long texts stretch by stretch.
    """
    windows = Windows.of(model)
    return Observation(
        name=name,
        samples=generate(model, tokenizer, request),
        scores=[
            tally
            for score in score_documents(model, tokenizer, held_out, windows)
            for tally in (stretches(score) if in_stretches else [score.tally])
        ],
        windows=windows,
    )


def record_texts(stream: TokenStream, tokenizer: Tokenizer) -> Iterator[str]:
    """The texts of a stream's records, in order; read as needed."""
    for number in range(stream.records):
        yield _record_text(stream, tokenizer, number)


@dataclass(frozen=True, slots=True)
class HeldOutTexts:
    """The held-out records to score.

    Attributes:
        texts: Their texts.
        groups: The group of each.
        in_stretches: Whether so few long texts are counted in stretches.
    """

    texts: Sequence[str] = ()
    groups: Sequence[int] = ()
    in_stretches: bool = False

    def units(self, scores: int) -> Sequence[int]:
        """What each of so many scores counts for: the group of each text, or each stretch by itself."""
        return self.groups if scores == len(self.texts) else range(scores)


def held_out_texts(stream: TokenStream | None, tokenizer: Tokenizer, *, tokens: int) -> HeldOutTexts:
    """All held-out records, or, where they have more tokens than that, some groups chosen by their hash.

    Args:
        stream: The held-out part; None where nothing is.
        tokenizer: Whose tokens the stream holds.
        tokens: Most tokens in all; a record that alone has more is cut there.
    """
    if stream is None:
        return HeldOutTexts()
    numbers = range(stream.records) if len(stream) <= tokens else _sampled_records(stream, tokens)
    found = [
        (_record_text(stream, tokenizer, number, tokens), int(stream.labels[number])) for number in numbers
    ]
    found = [(text, group) for text, group in found if text]
    groups = [group for _, group in found]
    few = len(set(groups)) < FEWEST_GROUPS
    return HeldOutTexts([text for text, _ in found], groups, in_stretches=few)


def _sampled_records(stream: TokenStream, tokens: int) -> list[int]:
    """The records of as many groups as have so many tokens, one group at least."""
    first = stream.one_of_each()
    sizes = np.bincount(stream.labels, np.diff(stream.ends, prepend=0))
    chosen, total = set[int](), 0
    for place in np.argsort(
        np.array([_hash(first, place) for place in range(first.records)], np.uint64)
    ).tolist():
        label = int(first.labels[place])
        total += int(sizes[label])
        if chosen and total > tokens:
            break
        chosen.add(label)
    return [number for number, label in enumerate(stream.labels.tolist()) if label in chosen]


def _hash(stream: TokenStream, number: int) -> int:
    start, end = int(stream.starts[number]), int(stream.ends[number])
    size = end - (int(stream.ends[number - 1]) if number else 0)
    ids = stream.ids[start : start + min(size, _READ_TOKENS)]
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest())


def excerpts(texts: Sequence[str], tokenizer: Tokenizer, *, tokens: int, count: int) -> list[str]:
    """Beginnings of texts, and what follows them where there are too few texts: pieces as long as a sample.

    Args:
        texts: Records.
        tokenizer: Whose tokens to count.
        tokens: Most tokens in a piece.
        count: Most pieces.
    """
    encoded = tokenizer.encode_batch(list(texts))
    longest = max(map(len, encoded), default=0)
    starts = ((start, ids) for start in range(0, longest, tokens) for ids in encoded if start < len(ids))
    pieces = [tokenizer.decode(ids[start : start + tokens]) for start, ids in islice(starts, count)]
    return [piece for piece in pieces if piece.strip()]


def _record_text(
    stream: TokenStream, tokenizer: Tokenizer, number: int, most_tokens: int | None = None
) -> str:
    """A record's text, at most so many tokens of it, without the end-of-text token."""
    size = int(stream.ends[number]) - (int(stream.ends[number - 1]) if number else 0)
    start = int(stream.starts[number])
    if size and stream.ids[start + size - 1] == tokenizer.end_of_text_id:
        size -= 1
    if most_tokens is not None:
        size = min(size, most_tokens)
    ids = stream.ids[start : start + size]
    pieces = (ids[at : at + _READ_TOKENS] for at in range(0, size, _READ_TOKENS))
    return b"".join(tokenizer.decode_bytes(piece.tolist()) for piece in pieces).decode("utf-8", "replace")
