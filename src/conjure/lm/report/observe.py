"""What a model does that a report looks at: the samples it writes, and what it makes of held-out text.

Main entries: `observe`, before and after training; `record_texts` and `held_out_texts` for the texts.
Invariant: the same model, request and texts give the same observation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from conjure.lm.generation.generate import GenerationRequest, Sample, generate
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.models.gpt2 import GPT2
from conjure.lm.text.held_out import TokenStream
from conjure.lm.text.tokenizer import Tokenizer

_READ_TOKENS = 1 << 16
_SCORED_TOKENS = 20_000  # of held-out text: a standard error of about 0.02 nats per token


@dataclass(frozen=True, slots=True)
class Observation:
    """One model, observed.

    Attributes:
        name: What to call it.
        samples: What it wrote, without a prompt.
        scores: Log-probability of each held-out text.
        windows: The protocol they were scored by.
    """

    name: str
    samples: Sequence[Sample]
    scores: Sequence[Tally]
    windows: Windows


def observe(
    name: str, model: GPT2, tokenizer: Tokenizer, held_out: Sequence[str], request: GenerationRequest
) -> Observation:
    """Let a model write, and score held-out texts.

    Args:
        name: What to call it.
        model: The model, as it is now.
        tokenizer: Its own.
        held_out: Texts that the tuned model was not trained on; may be none.
        request: What to write. Its prompt should be the empty one: the start of a record.
    """
    windows = Windows.of(model)
    return Observation(
        name=name,
        samples=generate(model, tokenizer, request),
        scores=[score.tally for score in score_documents(model, tokenizer, held_out, windows)],
        windows=windows,
    )


def record_texts(stream: TokenStream, tokenizer: Tokenizer) -> Iterator[str]:
    """The texts of a stream's records, in order; read as needed."""
    for number in range(stream.records):
        yield _record_text(stream, tokenizer, number)


def held_out_texts(
    stream: TokenStream | None, tokenizer: Tokenizer, *, tokens: int = _SCORED_TOKENS
) -> list[str]:
    """As many held-out records as have about so many tokens, from all over the stream.

    Args:
        stream: The held-out part; None where nothing is.
        tokenizer: Whose tokens the stream holds.
        tokens: Most tokens in all; a record that alone has more is cut there.
    """
    if stream is None:
        return []
    count = max(1, min(stream.records, round(stream.records * tokens / max(1, len(stream)))))
    numbers = [index * stream.records // count for index in range(count)]
    texts = [_record_text(stream, tokenizer, number, tokens) for number in numbers]
    return [text for text in texts if text]


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
