"""Several fine-tunes compared on text that none of them was trained on.

Main entry: `compare`. Invariants: every model reads the same records, by the same context and
stride, and writes with the same seeds; a record is read only if no record of its group was trained on by any
of the models; and a model ranks above another only where the difference is more than chance makes.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from conjure.core.text import plural
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import EncodedPrompt, GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_chats, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.hardware import pick_device
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.report.compared_records import (
    ComparedRecord,
    TunedModel,
    TunedTexts,
    readable_by_all,
    refuse_mixed_kinds,
    some_records,
    unseen_records,
)
from conjure.lm.report.diversity import distinct
from conjure.lm.report.lengths import distance, length_counts, usual_distance
from conjure.lm.report.novelty import compare_with_training, novelty_summary
from conjure.lm.report.report_schema import plain
from conjure.lm.report.statistics import LossChange, compare_losses
from conjure.lm.report.word_ngrams import split_words
from conjure.lm.text.chat.encoding import ConversationEncoder
from conjure.lm.text.chat.formats import ChatFormat

SCHEMA = 2
SAMPLES, SAMPLE_TOKENS, SEED = 20, 100, 0

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the models.

    Attributes:
        run: Number of its run.
        data: Names of the files it was trained on.
        bits_per_byte: Held-out loss, comparable between tokenizers; None where nothing could be compared.
        behind: By how much that is above the lowest of all runs; None for the lowest.
        behind_error: Standard error of `behind`, over the records.
        loss: The same as `bits_per_byte` in nats per token; comparable where the tokenizers are the same.
        rank: 1 is best; models without a clear difference have the same one. None where not comparable.
        samples: What it wrote.
        copies: Samples that are copies of a record it was trained on, or nearly so.
        distinct_pairs: Share of different word pairs, on as many words of each model.
        length_distance: Wasserstein-1 distance of its samples' lengths to those of its records, tokens.
        usual_distance: The most of that in 95 of 100 random draws of real records.
    """

    run: int
    data: tuple[str, ...]
    bits_per_byte: float | None
    behind: float | None
    behind_error: float | None
    loss: float | None
    rank: int | None
    samples: tuple[str, ...]
    copies: int
    distinct_pairs: float | None
    length_distance: float
    usual_distance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several fine-tunes side by side.

    Attributes:
        schema: `SCHEMA` of the conjure that made it.
        headline: What came of it, as a sentence.
        candidates: Records that at least one of the models was not trained on.
        left_out: Those among them that another of the models was trained on, or on one of their group.
        unreadable: Unseen conversations that the chat template of one of the models refuses.
        scored: Records scored, one of each group.
        available: Records that could have been scored: more, where there were very many.
        context: Tokens a model sees at once.
        stride: Tokens from one window to the next.
        seed: Of the samples.
        same_tokenizer: Whether losses in nats per token compare.
        questions: Of conversations, what each sample answers; none of plain text.
        runs: The models, in the order they were asked for.
    """

    schema: int
    headline: str
    candidates: int
    left_out: int
    unreadable: int
    scored: int
    available: int
    context: int
    stride: int
    seed: int
    same_tokenizer: bool
    questions: tuple[str, ...]
    runs: tuple[ComparedRun, ...]


def comparison_to_json(comparison: Comparison) -> str:
    """The comparison as JSON."""
    return json.dumps(plain(asdict(comparison)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def compare(models: Sequence[TunedModel], *, tell: Tell = lambda _: None) -> Comparison:
    """Compare fine-tunes.

    Args:
        models: Two or more.
        tell: Told what is being done, as a short sentence, whenever that changes.

    Raises:
        ConjureError: Data or a checkpoint are no longer there, or cannot be read.
    """
    tell("Reading the data")
    loaded = [load(model.folder) for model in models]
    texts = [TunedTexts(model, own.tokenizer) for model, own in zip(models, loaded, strict=True)]
    refuse_mixed_kinds([model.run for model in models], texts)
    formats = frozenset[ChatFormat]().union(*(text.chat_formats for text in texts))
    encoders = [text.encoder(formats) for text in texts]
    candidates, unseen = unseen_records(texts)
    readable = readable_by_all(unseen, encoders)
    chosen = some_records(readable)
    questions = _questions(chain(chosen, *(text.held_out() for text in texts)), encoders)
    windows = _windows(loaded)
    scores, facts = [], []
    for model, own, text, encoder in zip(models, loaded, texts, encoders, strict=True):
        tell(f"Measuring run {model.run}")
        own.model.to(pick_device())
        scores.append(_scores(own, encoder, chosen, windows, allow_special=text.reads_special_tokens))
        facts.append(_written(own, encoder, text, questions))
    ranks = rank(scores) if chosen else [None] * len(models)
    behind = behind_lowest(scores) if chosen else [None] * len(models)
    words = min((sum(map(len, own.words)) for own in facts), default=0)
    runs = tuple(
        ComparedRun(
            run=model.run,
            data=tuple(Path(name).name for name in model.trainings[-1].data),
            bits_per_byte=sum(tallies, Tally()).bits_per_byte if tallies else None,
            behind=change.change if change is not None else None,
            behind_error=change.standard_error if change is not None else None,
            loss=sum(tallies, Tally()).loss if tallies else None,
            rank=place,
            samples=own.samples,
            copies=own.copies,
            distinct_pairs=distinct(own.words, 2, words=words),
            length_distance=own.length_distance,
            usual_distance=own.usual_distance,
        )
        for model, tallies, place, change, own in zip(models, scores, ranks, behind, facts, strict=True)
    )
    return Comparison(
        schema=SCHEMA,
        headline=_headline(runs, len(chosen))
        if chosen
        else not_comparable(held_out=candidates > 0, unseen=len(unseen) > 0),
        candidates=candidates,
        left_out=candidates - len(unseen),
        unreadable=len(unseen) - len(readable),
        scored=len(chosen),
        available=len(readable),
        context=windows.context,
        stride=windows.stride,
        seed=SEED,
        same_tokenizer=len({own.tokenizer.digest for own in loaded}) == 1,
        questions=tuple(record.question for record in questions),
        runs=runs,
    )


def _questions(
    records: Iterable[ComparedRecord], encoders: Sequence[ConversationEncoder | None]
) -> list[ComparedRecord]:
    """The first different conversations that all models can be asked; none of plain text."""
    different = {record.question: record for record in records if record.question}
    return list(islice(readable_by_all(list(different.values()), encoders), SAMPLES))


def _scores(
    own: LanguageModel,
    encoder: ConversationEncoder | None,
    records: Sequence[ComparedRecord],
    windows: Windows,
    *,
    allow_special: bool,
) -> list[Tally]:
    """What a model makes of each record; of a conversation, of its answers."""
    scorer = TorchScorer(own.model)
    if encoder is None:
        documents = [record.text for record in records]
        scored = score_documents(scorer, own.tokenizer, documents, windows, allow_special=allow_special)
    else:
        chats = [encoder.encode(record.messages) for record in records]
        scored = score_chats(scorer, own.tokenizer, chats, windows)
    return [score.tally for score in scored]


def _windows(models: Sequence[LanguageModel]) -> Windows:
    return Windows.of(min((own.config for own in models), key=lambda config: config.context_length))


@dataclass(frozen=True, slots=True)
class _Written:
    samples: tuple[str, ...]
    words: list[list[str]]
    copies: int
    length_distance: float
    usual_distance: float


def _written(
    own: LanguageModel,
    encoder: ConversationEncoder | None,
    text: TunedTexts,
    questions: Sequence[ComparedRecord],
) -> _Written:
    """What a model writes, beside what it was trained on."""
    samples = generate(own.model, own.tokenizer, _request(own, encoder, questions))
    written = tuple(sample.text for sample in samples)
    novelty = novelty_summary(compare_with_training(written, text.learned(), own.tokenizer))
    assert novelty is not None
    data = length_counts(text.lengths, SAMPLE_TOKENS)
    lengths = [len(sample.token_ids) - (sample.finish_reason == "end_of_text") for sample in samples]
    return _Written(
        samples=written,
        words=[split_words(sample) for sample in written],
        copies=novelty.copied,
        length_distance=distance(length_counts(lengths, SAMPLE_TOKENS), data),
        usual_distance=usual_distance(data, len(samples)),
    )


def _request(
    own: LanguageModel, encoder: ConversationEncoder | None, questions: Sequence[ComparedRecord]
) -> GenerationRequest:
    """What each model is asked to write: starts of records, or an answer to each question."""
    if encoder is None or not questions:
        return GenerationRequest(num_samples=SAMPLES, max_new_tokens=SAMPLE_TOKENS, seed=SEED)
    asked = (encoder.encode(record.messages).question(own.tokenizer) for record in questions)
    prompts = [EncodedPrompt(text, ids) for text, ids in asked]
    return GenerationRequest(prompts=prompts, num_samples=1, max_new_tokens=SAMPLE_TOKENS, seed=SEED)


def rank(scores: Sequence[Sequence[Tally]]) -> list[int | None]:
    """The rank of each model, 1 the best; no clear difference from the best of a rank is the same rank.

    Args:
        scores: Of each model, one tally for each record, of which every group has one.
    """
    sums = [sum(tallies, Tally()) for tallies in scores]
    order = sorted(range(len(scores)), key=lambda place: -sums[place].total)
    ranks: list[int | None] = [None] * len(scores)
    leader = order[0]
    for number in order:
        if compare_losses(scores[leader], scores[number]).outcome == "worse":
            leader = number
        ranks[number] = order.index(leader) + 1
    return ranks


def behind_lowest(scores: Sequence[Sequence[Tally]]) -> list[LossChange | None]:
    """How far each model's bits per byte are above the lowest; None for the model that has those.

    Args:
        scores: As for `rank`.
    """
    in_bits = [[Tally(each.total / math.log(2), each.bytes) for each in tallies] for tallies in scores]
    lowest = max(in_bits, key=lambda tallies: sum(tallies, Tally()).total)
    return [compare_losses(lowest, tallies) if tallies is not lowest else None for tallies in in_bits]


def not_comparable(*, held_out: bool, unseen: bool) -> str:
    """Why nothing was scored, as a sentence: nothing was held out, nothing of it is unseen, or readable."""
    if not held_out:
        return "Not comparable: none of the runs held out any records."
    if not unseen:
        return "Not comparable: every held-out record of one run was trained on by another."
    return "Not comparable: the chat templates of the runs do not accept the same conversations."


def _headline(runs: Sequence[ComparedRun], scored: int) -> str:
    records = f"{plural(scored, 'record')} that none of them was trained on"
    best = [run.run for run in runs if run.rank == 1]
    if len(best) == len(runs):
        return f"No clear difference between the runs on {records}."
    if len(best) == 1:
        return f"Run {best[0]} is best on {records}."
    return f"{named(best)} are best on {records}, without a clear difference between them."


def named(runs: Sequence[int]) -> str:
    """Such as ``Runs 3, 5 and 8``."""
    first, last = ", ".join(map(str, runs[:-1])), str(runs[-1])
    return f"Runs {first} and {last}"
