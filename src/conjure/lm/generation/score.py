"""How likely a model finds a text: log-probability per token, and perplexity with its protocol beside it.

Main entries: `score` for one text, `score_documents` for many, `score_chats`; `Scorer` is what computes.
Invariant: every token is scored exactly once and counts alike; the total is the sum of
``log P(x_t | x_<t)``. Nothing here needs torch.

The protocol, the same everywhere: a document is read after one end-of-text token, which is given and not
scored, so its first token is. A document longer than `context` tokens is read in windows of `context` inputs
that start every `stride` tokens; a window scores what no earlier one did. So each token but those of the
first window is predicted from at least ``context - stride + 1`` tokens, and the tail is scored like the rest.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

import numpy as np

from conjure.errors import ModelError
from conjure.lm.bounds import ValueFault, refuse_faults
from conjure.lm.generation.engines.all_logits import PIECE, PositionReader
from conjure.lm.native.logits import logit_summary
from conjure.lm.text.batches import in_batches
from conjure.lm.text.chat.encoding import EncodedChat
from conjure.lm.text.tokenizer import Tokenizer

_LONGEST_WINDOW = 8192  # unless asked for: what a window takes grows with it, and some contexts are very long
_CHATS_TOGETHER = 256
_GROUP_CHARACTERS = 1 << 17  # short texts gathered before sorting, so that batches hold equal lengths


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """Tokens that are read, some of which are scored.

    Attributes:
        ids: int64, (T + 1,); the last one is scored and not read.
        first: From which input on, 0 to T, the token that follows it is scored.
    """

    ids: np.ndarray
    first: int

    @property
    def length(self) -> int:
        """How many tokens are read."""
        return len(self.ids) - 1


class WithContext(Protocol):
    """What reads at most so many tokens."""

    @property
    def context_length(self) -> int:
        """Most tokens that are read as one text."""
        ...


class Scorer(WithContext, Protocol):
    """A model that tells how likely tokens are, in float32 for exact results."""

    @property
    def tokens_together(self) -> int:
        """How many tokens one call should read: more at once gain nothing."""
        ...

    def score(self, rows: Sequence[ScoredRow]) -> list[np.ndarray]:
        """Log-probabilities of each row's scored tokens, nats, float32, (T - first,)."""
        ...


class PositionScorer:
    """A scorer that looks at the logits after every token.

    Args:
        reader: Gives them.
    """

    tokens_together = PIECE

    def __init__(self, reader: PositionReader) -> None:
        self._reader = reader

    @property
    def context_length(self) -> int:
        """Most tokens that a row can read."""
        return self._reader.context_length

    def score(self, rows: Sequence[ScoredRow]) -> list[np.ndarray]:
        """Read all rows; see `Scorer.score`."""
        found = [np.empty(row.length, np.float32) for row in rows]
        for piece in chain.from_iterable(self._reader.read([row.ids[:-1].tolist() for row in rows])):
            end = piece.start + len(piece.logits)
            targets = rows[piece.text].ids[piece.start + 1 : end + 1]
            chosen = piece.logits[np.arange(len(targets)), targets]
            found[piece.text][piece.start : end] = chosen - logit_summary(piece.logits)[0]
        return [logprobs[row.first :] for row, logprobs in zip(rows, found, strict=True)]


@dataclass(frozen=True, slots=True)
class Tally:
    """A log-probability and what it was spread over; tallies add up.

    Attributes:
        total: Log-probability of everything counted, nats, <= 0.
        tokens: Tokens scored; this and the following are whole numbers but for the mean of several texts.
        words: Whitespace-separated words in the text that is scored.
        bytes: UTF-8 bytes in that text.
    """

    total: float = 0.0
    tokens: float = 0
    words: float = 0
    bytes: float = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.total + other.total,
            self.tokens + other.tokens,
            self.words + other.words,
            self.bytes + other.bytes,
        )

    @property
    def loss(self) -> float:
        """Mean nats per token; NaN where there is no token."""
        return _ratio(-self.total, self.tokens)

    @property
    def perplexity(self) -> float:
        """``exp(loss)``: comparable between models of one tokenizer only."""
        return _exponential(self.loss)

    @property
    def word_perplexity(self) -> float:
        """``exp`` of mean nats per word: comparable between tokenizers."""
        return _exponential(_ratio(-self.total, self.words))

    @property
    def bits_per_byte(self) -> float:
        """Mean bits per UTF-8 byte: comparable between tokenizers."""
        return _ratio(-self.total, self.bytes) / math.log(2)


@dataclass(frozen=True, slots=True)
class Windows:
    """How much text a model sees at once, and how far the view moves on.

    Attributes:
        context: Tokens a window reads, at most the model's context length.
        stride: Tokens from one window's start to the next one's, 1 to `context`. Smaller is kinder to the
            model (more context for each token) and costs ``context / stride`` times the work.
    """

    context: int
    stride: int

    @classmethod
    def of(cls, model: WithContext, context: int | None = None, stride: int | None = None) -> "Windows":
        """The windows asked for; by default the model's context, at most 8,192, and half of it as stride.

        Raises:
            UsageError: A bound is broken; all faults are named at once.
        """
        limit = model.context_length
        context = context if context is not None else min(limit, _LONGEST_WINDOW)
        stride = stride if stride is not None else max(1, context // 2)
        faults = []
        if not 1 <= context <= limit:
            faults.append(
                ValueFault("context", f"must be from 1 to the model's {limit} tokens, not {context}")
            )
        if stride < 1 or stride > context > 0:
            faults.append(ValueFault("stride", f"must be from 1 to the context, not {stride}"))
        refuse_faults(faults)
        return cls(context, stride)


@dataclass(frozen=True, slots=True)
class Score:
    """One text's log-probabilities.

    Attributes:
        token_ids: The text's tokens; the start token is not among them.
        token_logprobs: ``log P(token | what came before)`` of each, nats.
        tally: Their sum, and the counts of tokens, words and bytes.
        windows: The protocol.
    """

    token_ids: list[int]
    token_logprobs: list[float]
    tally: Tally
    windows: Windows

    @property
    def total(self) -> float:
        """Log-probability of the whole text, nats."""
        return self.tally.total

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean negative log-probability per token."""
        return self.tally.perplexity


def score(
    scorer: Scorer, tokenizer: Tokenizer, text: str, *, context: int | None = None, stride: int | None = None
) -> Score:
    """Score one text as a document.

    Args:
        scorer: The model.
        tokenizer: The model's own.
        text: Encoded exactly as it is.
        context: Tokens seen at once; None means all the model can, at most 8,192.
        stride: Tokens between windows; None means half of `context`.

    Raises:
        UsageError: `context` or `stride` is out of range.

    Source:
        Parity and brute force: tests/parity/test_score.py, tests/unit/lm/generation/test_score.py.
    """
    windows = Windows.of(scorer, context, stride)
    return next(score_documents(scorer, tokenizer, [text], windows))


def score_documents(
    scorer: Scorer,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    windows: Windows,
    *,
    allow_special: bool = False,
    report: Callable[[int], object] | None = None,
) -> Iterator[Score]:
    """Score each text as a document of its own, in order; short ones share forward passes.

    Memory is bounded by some hundred thousand characters of short texts, or by the longest text.

    Args:
        scorer: The model.
        tokenizer: The model's own.
        texts: Read as they are needed.
        windows: How much of a text is seen at once.
        allow_special: Take special tokens written out in a text for those tokens.
        report: Told after each forward pass how many more tokens have been scored.
    """
    for group in in_batches(texts, _GROUP_CHARACTERS, len):
        ids = tokenizer.encode_batch(group, allow_special=allow_special)
        scored = _score_group(scorer, ids, windows, [tokenizer.start_id] * len(ids), report)
        for text, encoded, logprobs in zip(group, ids, scored, strict=True):
            total = float(logprobs.sum(dtype=np.float64))
            tally = Tally(total, len(encoded), len(text.split()), len(text.encode()))
            yield Score(encoded, logprobs.tolist(), tally, windows)


def score_chats(
    scorer: Scorer,
    tokenizer: Tokenizer,
    chats: Iterable[EncodedChat],
    windows: Windows,
    *,
    report: Callable[[int], object] | None = None,
) -> Iterator[Score]:
    """Score the answers of each conversation, in order, given all that comes before them.

    Args:
        scorer: The model.
        tokenizer: The model's own.
        chats: The conversations; what ends an answer is not scored. One that begins with an answer is read
            after the token that texts are read after.
        windows: How much of a conversation is seen at once.
        report: Told after each forward pass how many more tokens have been read.
    """
    remaining = iter(chats)
    while group := list(islice(remaining, _CHATS_TOGETHER)):
        answers = [[place for span in chat.answers(tokenizer.end_ids) for place in span] for chat in group]
        rows = [
            chat.ids if 0 not in places else [tokenizer.start_id, *chat.ids]
            for chat, places in zip(group, answers, strict=True)
        ]
        scored = _score_group(scorer, [row[1:] for row in rows], windows, [row[0] for row in rows], report)
        for chat, places, row, logprobs in zip(group, answers, rows, scored, strict=True):
            first = len(row) - len(chat.ids) - 1  # of the scored tokens, what stands at place 0 of the record
            found = logprobs[[first + place for place in places]].tolist()
            words = len(chat.answer_text(tokenizer).split())
            size = sum(map(len, chat.answer_bytes(tokenizer)))
            tally = Tally(math.fsum(found), len(found), words, size)
            yield Score([chat.ids[place] for place in places], found, tally, windows)


@dataclass(frozen=True, slots=True)
class _Window:
    """Targets `first` to `end` of a document, read from `begin` on."""

    document: int
    begin: int
    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def _windows(document: int, tokens: int, windows: Windows) -> Iterator[_Window]:
    """Cover targets 0 … tokens-1, each once. The input that predicts target t is token t - 1."""
    done, begin = 0, 0
    while done < tokens:
        end = min(begin + windows.context, tokens)
        yield _Window(document, begin, done, end)
        done, begin = end, begin + windows.stride


def _score_group(
    scorer: Scorer,
    documents: Sequence[list[int]],
    windows: Windows,
    start_ids: Sequence[int],
    report: Callable[[int], object] | None,
) -> list[np.ndarray]:
    """Log-probabilities of each document, (N_i,); windows of like length are read together."""
    results = [np.empty(len(ids), np.float32) for ids in documents]
    plan = [window for index, ids in enumerate(documents) for window in _windows(index, len(ids), windows)]
    plan.sort(key=lambda window: -window.length)
    start = 0
    while start < len(plan):
        together = plan[start : start + max(1, scorer.tokens_together // plan[start].length)]
        scored = scorer.score(
            [_row(documents[window.document], window, start_ids[window.document]) for window in together]
        )
        if not all(math.isfinite(logprobs.sum()) for logprobs in scored):
            raise ModelError(
                "the model computes log-probabilities that are not numbers (NaN or infinity): its weights are"
                " too large, or damaged"
            )
        for window, logprobs in zip(together, scored, strict=True):
            results[window.document][window.first : window.end] = logprobs
        if report is not None:
            report(sum(window.end - window.first for window in together))
        start += len(together)
    return results


def _row(ids: list[int], window: _Window, start_id: int) -> ScoredRow:
    """Inputs and last target of a window."""
    head = [start_id] if window.begin == 0 else []
    body = ids[max(0, window.begin - 1) : window.end]
    row = np.array(head + body, dtype=np.int64)
    return ScoredRow(row, window.first - window.begin)


def _ratio(numerator: float, count: float) -> float:
    return numerator / count if count else math.nan


def _exponential(value: float) -> float:
    """``exp``, infinite where a float cannot hold it."""
    return math.exp(value) if not value > 700 else math.inf
