"""What a model does that a report looks at: the samples it writes, and what it makes of held-out text.

Main entries: `measure_model`, before and after training; `record_texts` and `held_out_texts` for the texts.
Invariant: the same model, request and texts give the same observation.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from conjure.lm.generation.engines.cuda_graph import torch_engine
from conjure.lm.generation.generate import Sample, Token, stream
from conjure.lm.generation.request import EncodedPrompt, GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_chats, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.models.base import CausalLM
from conjure.lm.report.extraction import LONGEST, extracted_share
from conjure.lm.report.report_schema import Extraction
from conjure.lm.report.statistics import FEWEST_GROUPS, stretches
from conjure.lm.text.chat.encoding import EncodedChat
from conjure.lm.text.split import TokenStream
from conjure.lm.text.tokenizer import Tokenizer

_READ_TOKENS = 1 << 16
FEWEST_SCORED_TOKENS = 20_000  # held-out ones, however few training processed: an error of about 0.02 nats
_FIRST_TOKENS = 2 * LONGEST  # of a record to recite: cutting a text may change its last tokens
RECITED_RECORDS = 100  # of training records, and as many held-out ones, whose second half is asked for

Record = str | EncodedChat
Progress = Callable[[float], object]  # the share that is done, 0 to 1


@dataclass(frozen=True, slots=True)
class Observation:
    """One model, observed.

    Attributes:
        name: What to call it.
        samples: What it wrote, without a prompt.
        scores: Log-probability of each held-out text, or of each stretch of it.
        windows: The protocol they were scored by.
        extraction: Which records it can recite.
    """

    name: str
    samples: Sequence[Sample]
    scores: Sequence[Tally]
    windows: Windows
    extraction: Extraction


def measure_model(
    name: str,
    model: CausalLM,
    tokenizer: Tokenizer,
    held_out: "HeldOutTexts",
    request: GenerationRequest,
    *,
    trained_on: Sequence[Record] = (),
    on_progress: Progress | None = None,
) -> Observation:
    """Let a model write, score held-out texts, and see what it can recite.

    Args:
        name: What to call it.
        model: The model, as it is now.
        tokenizer: Its own.
        held_out: Records that the tuned model was not trained on; may be none.
        request: What to write. Its prompt should be the empty one, the start of a record; or the questions
            of conversations.
        trained_on: Some whole records that the tuned model was trained on, to see which can be recited.
        on_progress: Told how far it is, from time to time.
    """
    scorer, windows = TorchScorer(model), Windows.of(model)
    records, allow_special = held_out.records, held_out.allow_special
    recited = records[:: max(1, len(records) // RECITED_RECORDS)][:RECITED_RECORDS]
    work = _Work(on_progress, request, [*records, *recited, *trained_on])
    samples = []
    for event in stream(torch_engine(model), tokenizer, request):
        if isinstance(event, Sample):
            samples.append(event)
        work.done_writing(event)
    texts = [record for record in records if isinstance(record, str)]
    chats = [record for record in records if isinstance(record, EncodedChat)]
    scored = chain(
        score_documents(
            scorer, tokenizer, texts, windows, allow_special=allow_special, report=work.done_reading
        ),
        score_chats(scorer, tokenizer, chats, windows, report=work.done_reading),
    )
    return Observation(
        name=name,
        samples=sorted(samples, key=lambda sample: (sample.prompt_index, sample.index)),
        scores=[
            tally
            for score in scored
            for tally in (stretches(score) if held_out.in_stretches else [score.tally])
        ],
        windows=windows,
        extraction=Extraction(
            *(
                extracted_share(
                    model, tokenizer, records, allow_special=allow_special, on_progress=work.done_reading
                )
                for records in (trained_on, recited)
            )
        ),
    )


class _Work:
    """How much of an observation is done, weighed by what writing and reading cost."""

    _WRITING = 4.0  # a token written costs about so many tokens read
    _CHARACTERS = 4.0  # per token, about

    def __init__(
        self, on_progress: Progress | None, request: GenerationRequest, records: Sequence[Record]
    ) -> None:
        self._on_progress = on_progress
        self._longest = request.max_new_tokens
        self._total = self._WRITING * request.num_samples * len(request.prompts) * self._longest
        self._total += sum(
            len(each) / self._CHARACTERS if isinstance(each, str) else len(each.ids) for each in records
        )
        self._done = 0.0

    def done_writing(self, event: Token | Sample) -> None:
        """A token was written, or a sample has ended: what it could still have written is done too."""
        if isinstance(event, Sample):
            self._add(self._WRITING * (self._longest - len(event.token_ids)))
        else:
            self._add(self._WRITING)

    def done_reading(self, tokens: int) -> None:
        """So many more tokens were read."""
        self._add(tokens)

    def _add(self, work: float) -> None:
        self._done += work
        if self._on_progress is not None:
            self._on_progress(min(1.0, self._done / self._total))


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
        in_stretches: Whether so few texts, one of each group, are counted in stretches.
        chats: The records in tokens, where they are conversations; `texts` are then their answers.
        allow_special: Whether special tokens written out in a text are those tokens.
    """

    texts: Sequence[str] = ()
    groups: Sequence[int] = ()
    in_stretches: bool = False
    chats: Sequence[EncodedChat] = ()
    allow_special: bool = False

    @property
    def records(self) -> Sequence[Record]:
        """The records to score."""
        return self.chats or self.texts

    def units(self, scores: int) -> Sequence[int]:
        """What each of so many scores counts for: the group of each text, or each stretch by itself."""
        return self.groups if scores == len(self.texts) else range(scores)


def held_out_texts(
    stream: TokenStream | None, tokenizer: Tokenizer, *, tokens: int, allow_special: bool = False
) -> HeldOutTexts:
    """All held-out records, or, where they have more tokens than that, some groups chosen by their hash.

    Args:
        stream: The held-out part; None where nothing is.
        tokenizer: Whose tokens the stream holds.
        tokens: Most tokens in all; a record that alone has more is cut there.
        allow_special: Whether special tokens written out in the data were taken for those tokens.
    """
    if stream is None:
        return HeldOutTexts()
    numbers = range(stream.records) if len(stream) <= tokens else _sampled_records(stream, tokens)
    if stream.kinds is not None:
        chats = [_chat(stream, number) for number in numbers]
        chats = [
            (chat, int(stream.labels[n]))
            for chat, n in zip(chats, numbers, strict=True)
            if any(chat.answers())
        ]
        texts = [chat.answer_text(tokenizer) for chat, _ in chats]
        return HeldOutTexts(texts, [group for _, group in chats], chats=[chat for chat, _ in chats])
    found = [
        (_record_text(stream, tokenizer, number, tokens), int(stream.labels[number])) for number in numbers
    ]
    found = [(text, group) for text, group in found if text]
    few = len({group for _, group in found}) < FEWEST_GROUPS
    if few:  # a stretch counts by itself, so another of its text's group would count as something new
        first = {group: text for text, group in reversed(found)}
        found = [(first[group], group) for group in dict.fromkeys(group for _, group in found)]
    texts, groups = [text for text, _ in found], [group for _, group in found]
    return HeldOutTexts(texts, groups, in_stretches=few, allow_special=allow_special)


def _sampled_records(stream: TokenStream, tokens: int) -> list[int]:
    """The records of as many groups as have so many tokens, one group at least."""
    first = stream.first_of_each_group()
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
    ids = stream.ids[stream.place_of(number)][:_READ_TOKENS]
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest())


def some_records(stream: TokenStream, tokenizer: Tokenizer, count: int = RECITED_RECORDS) -> list[Record]:
    """So many records from all over a stream, each text as far as its first tokens."""
    count = min(stream.records, count)
    numbers = [index * stream.records // count for index in range(count)]
    if stream.kinds is not None:
        return [chat for chat in (_chat(stream, number) for number in numbers) if any(chat.answers())]
    return [_record_text(stream, tokenizer, number, _FIRST_TOKENS) for number in numbers]


class Excerpt(NamedTuple):
    """A piece of a text, and which text it is from."""

    source: int
    text: str


def excerpts(texts: Sequence[str], tokenizer: Tokenizer, *, tokens: int, count: int) -> list[Excerpt]:
    """Beginnings of texts, and what follows them where there are too few texts: pieces as long as a sample.

    Args:
        texts: Records.
        tokenizer: Whose tokens to count.
        tokens: Most tokens in a piece.
        count: Most pieces.
    """
    encoded = tokenizer.encode_batch(list(texts))
    longest = max(map(len, encoded), default=0)
    starts = (
        (start, source)
        for start in range(0, longest, tokens)
        for source, ids in enumerate(encoded)
        if start < len(ids)
    )
    pieces = (
        Excerpt(source, tokenizer.decode(encoded[source][start : start + tokens]))
        for start, source in islice(starts, count)
    )
    return [piece for piece in pieces if piece.text.strip()]


def _chat(stream: TokenStream, number: int) -> EncodedChat:
    """A record that is a conversation."""
    assert stream.kinds is not None
    place = stream.place_of(number)
    return EncodedChat(stream.ids[place].tolist(), stream.kinds[place].tolist())


def questions(stream: TokenStream, tokenizer: Tokenizer, count: int) -> list[EncodedPrompt]:
    """What is asked in so many conversations from all over a stream."""
    chats = [record for record in some_records(stream, tokenizer, count) if isinstance(record, EncodedChat)]
    asked = [EncodedPrompt(*chat.question(tokenizer)) for chat in chats]
    return [prompt for prompt in asked if prompt.ids]


def _record_text(
    stream: TokenStream, tokenizer: Tokenizer, number: int, most_tokens: int | None = None
) -> str:
    """A record's text, at most so many tokens of it, without its end; of a conversation, the answers.

    Encoded, it gives those tokens again, so the space that some tokenizers put before a text is not in it.
    """
    if stream.kinds is not None:
        return _chat(stream, number).answer_text(tokenizer)
    ids = stream.ids[stream.place_of(number)]
    if len(ids) and ids[-1] == tokenizer.end_of_text_id:
        ids = ids[:-1]
    if len(ids) and ids[0] == stream.start_id:
        ids = ids[1:]
    ids = ids[:most_tokens]
    pieces = (ids[at : at + _READ_TOKENS] for at in range(0, len(ids), _READ_TOKENS))
    content = b"".join(tokenizer.decode_bytes(piece.tolist()) for piece in pieces)
    return (content.removeprefix(b" ") if tokenizer.kind.prefix_space else content).decode("utf-8", "replace")
