"""From what was observed to a report.

Main entries: `Evidence`, `analyse`. Invariant: base and tuned model are measured alike (same prompts, same
seed, same held-out texts, same number of words), or a difference between them would mean nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conjure.lm.generation.generate import Sample
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally
from conjure.lm.report.diversity import distinct, repeated_texts, self_bleu
from conjure.lm.report.lengths import Counts, distance, length_counts, usual_distance
from conjure.lm.report.measure_model import Excerpt, Observation, excerpts
from conjure.lm.report.novelty import Overlap, compare_with_training, novelty_summary
from conjure.lm.report.report_schema import (
    SCHEMA,
    Course,
    CurvePoint,
    Diversity,
    Gallery,
    HeldOutBaseline,
    HeldOutComparison,
    HeldOutFacts,
    HeldOutScore,
    LengthFigures,
    LengthScale,
    ModelResults,
    Report,
    SampleFacts,
    TrainingText,
    plain,
)
from conjure.lm.report.statistics import compare_losses, group_tallies
from conjure.lm.report.verdict import Figures, judge
from conjure.lm.report.word_ngrams import split_words
from conjure.lm.text.tokenizer import Tokenizer

_UNSEEN_PER_SAMPLE = 4  # excerpts of unseen text for each sample: what is normal is known better than what is
_MOST_CURVE_POINTS = 300
_LENGTH_BINS = 16
_GALLERY = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a report is made from.

    Attributes:
        title: Such as "sprite tuned on jokes.csv".
        base: The model before training, observed.
        tuned: The model after, observed with the same request and held-out texts.
        request: What both were asked to write.
        tokenizer: The models' own.
        training: Every record the model was trained on; read once, streaming.
        held_out: The texts that were scored; none where nothing is held out.
        record_lengths: Tokens in each of the data's records, end-of-text tokens not counted.
        points: Losses over the steps.
        kept_step: The step whose weights the tuned model has.
        end_reason: ``completed``, ``early_stop`` or ``interrupted``.
        settings: Settings of the training, for the reader.
        data: Facts about the data, for the reader.
        held_out_units: What each held-out score counts for (`HeldOutTexts.units`); by default for itself.
        held_out_facts: What was held out, and how much of it was scored.
        run: Number of the run that this is part of, if any.
    """

    title: str
    base: Observation
    tuned: Observation
    request: GenerationRequest
    tokenizer: Tokenizer
    training: Iterable[str]
    held_out: Sequence[str]
    record_lengths: npt.NDArray[np.integer[Any]]
    points: Sequence[CurvePoint]
    kept_step: int
    end_reason: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    held_out_units: Sequence[int] = ()
    held_out_facts: HeldOutFacts | None = None
    run: int | None = None

    def tallies(self, observation: Observation) -> list[Tally]:
        """An observation's held-out scores, one for each unit."""
        scores = observation.scores
        return group_tallies(scores, self.held_out_units or range(len(scores)))

    def one_of_each_group(self) -> Sequence[str]:
        """The held-out texts but those that say the same as an earlier one and would look repetitive."""
        if len(self.held_out_units) != len(self.held_out):
            return self.held_out  # few long texts, counted in stretches
        first = dict(zip(reversed(self.held_out_units), reversed(self.held_out), strict=True))
        return [first[group] for group in dict.fromkeys(self.held_out_units)]


def analyse(evidence: Evidence) -> Report:
    """Work out a report; the training records are read once, in little memory."""
    observations = (evidence.base, evidence.tuned)
    written = [[sample.text for sample in observation.samples] for observation in observations]
    pieces = excerpts(
        evidence.one_of_each_group(),
        evidence.tokenizer,
        tokens=evidence.request.max_new_tokens,
        count=_UNSEEN_PER_SAMPLE * len(evidence.tuned.samples),
    )
    training = _Counted(evidence.training)
    *overlaps, of_pieces = _compare(
        [*written, [piece.text for piece in pieces]], training, evidence.tokenizer
    )
    copied = copied_sources(pieces, of_pieces)
    unseen = [place for place, piece in enumerate(pieces) if piece.source not in copied]
    diversities = _diversities([*written, [pieces[place].text for place in unseen]])
    counts = length_counts(evidence.record_lengths, evidence.request.max_new_tokens)
    scale = _scale(counts, len(evidence.tuned.samples))
    base, tuned = (
        _side(evidence, observation, overlap, diversity, counts, scale)
        for observation, overlap, diversity in zip(observations, overlaps, diversities, strict=False)
    )
    held_out = _comparison(evidence)
    novelty = novelty_summary([of_pieces[place] for place in unseen])
    normal = HeldOutBaseline(novelty, diversities[2], len(copied)) if novelty is not None else None
    course = _course(evidence)
    return Report(
        schema=SCHEMA,
        title=evidence.title,
        verdict=judge(
            Figures(
                base,
                tuned,
                held_out,
                scale,
                normal,
                course,
                held_out_facts=evidence.held_out_facts,
                copied_held_out=len(copied),
                learning_rate=evidence.settings.get("learning_rate"),
            )
        ),
        base=base,
        tuned=tuned,
        held_out=held_out,
        lengths=scale,
        normal=normal,
        training_text=TrainingText(training.records, training.characters),
        course=course,
        sampling=plain(asdict(evidence.request)),
        settings=plain(evidence.settings),
        data=plain(evidence.data),
        run=evidence.run,
        held_out_facts=evidence.held_out_facts,
    )


def copied_sources(pieces: Sequence[Excerpt], overlaps: Sequence[Overlap]) -> frozenset[int]:
    """Texts that stand in the training records too: half of their pieces or more are copies or nearly so.

    What is trained on cannot show what unseen text has in common with the training records.
    """
    all_of, copied_of = Counter[int](), Counter[int]()
    for piece, overlap in zip(pieces, overlaps, strict=True):
        all_of[piece.source] += 1
        copied_of[piece.source] += overlap.originality != "own"
    return frozenset(source for source, count in all_of.items() if 2 * copied_of[source] >= count)


class _Counted:
    """Records that are counted as they are read."""

    def __init__(self, records: Iterable[str]) -> None:
        self._source = records
        self.records = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for record in self._source:
            self.records += 1
            self.characters += len(record)
            yield record


def _compare(groups: list[list[str]], training: Iterable[str], tokenizer: Tokenizer) -> list[list[Overlap]]:
    """Compare all texts with the training records at once, for they are read only once."""
    overlaps = iter(compare_with_training([text for group in groups for text in group], training, tokenizer))
    return [[next(overlaps) for _ in group] for group in groups]


def _diversities(groups: list[list[str]]) -> list[Diversity]:
    """How varied each group is: the more words and texts are compared, the more of them are alike.

    distinct-n is of as many words as the smallest group has, self-BLEU of as many texts. Repeats are counted
    among as many texts as there are samples, which is how many the first group has.
    """
    split = [[split_words(text) for text in group] for group in groups]
    samples, fewest = len(groups[0]), min((len(group) for group in groups if group), default=0)
    totals = [sum(map(len, texts)) for texts in split]
    words = min((total for total in totals if total), default=0)
    return [
        Diversity(
            words=words,
            distinct=tuple(distinct(texts, n, words=words) for n in (1, 2, 3)),
            self_bleu=self_bleu(texts[:fewest]),
            repeated=repeated_texts(texts[:samples]),
            texts=min(len(texts), samples),
        )
        for texts in split
    ]


def _side(
    evidence: Evidence,
    observation: Observation,
    overlaps: list[Overlap],
    diversity: Diversity,
    data: Counts,
    scale: LengthScale,
) -> ModelResults:
    novelty = novelty_summary(overlaps)
    assert novelty is not None, "a report needs samples"
    samples = tuple(
        SampleFacts(
            index=place,
            text=sample.text,
            tokens=_length(sample),
            loss=-sum(sample.logprobs) / len(sample.logprobs),
            finish_reason=sample.finish_reason,
            originality=overlap.originality,
            run=overlap.run,
            near_record=overlap.near_record,
            prompt=sample.prompt,
        )
        for place, (sample, overlap) in enumerate(zip(observation.samples, overlaps, strict=True))
    )
    counts = length_counts([sample.tokens for sample in samples], scale.limit)
    return ModelResults(
        name=observation.name,
        held_out=held_out_score(evidence.tallies(observation)),
        lengths=_length_figures(counts, data, scale.width),
        novelty=novelty,
        diversity=diversity,
        gallery=choose_gallery([sample.loss for sample in samples]),
        samples=samples,
        extraction=observation.extraction,
    )


def _length(sample: Sample) -> int:
    return len(sample.token_ids) - (sample.finish_reason == "end_of_text")


def choose_gallery(losses: Sequence[float]) -> Gallery:
    """The likeliest, the middling and the least likely of some samples, up to three of each."""
    order = sorted(range(len(losses)), key=lambda place: (losses[place], place))
    size = max(1, min(_GALLERY, len(order) // 3))
    best, rest = order[:size], order[size:]
    worst = rest[-size:] if rest else []
    between = rest[: -size or None]
    middle = max(0, (len(between) - size) // 2)
    return Gallery(tuple(best), tuple(between[middle : middle + size]), tuple(worst))


def _scale(data: Counts, samples: int) -> LengthScale:
    limit = len(data) - 1
    width = max(1, -(-(limit + 1) // _LENGTH_BINS))
    return LengthScale(
        limit=limit,
        width=width,
        data=_length_figures(data, data, width),
        usual_distance=usual_distance(data, samples),
    )


def _length_figures(counts: Counts, data: Counts, width: int) -> LengthFigures:
    lengths = np.arange(len(counts))
    total = int(counts.sum())
    shares = np.add.reduceat(counts, np.arange(0, len(counts), width)) / total
    return LengthFigures(
        shares=tuple(shares.tolist()),
        mean=float((lengths * counts).sum() / total),
        median=float(np.median(np.repeat(lengths, counts))),
        at_limit=float(counts[-1] / total),
        distance=distance(counts, data),
    )


def held_out_score(scores: Sequence[Tally]) -> HeldOutScore | None:
    """The figures of some tallies together; None where there is no token."""
    tally = sum(scores, Tally())
    if not tally.tokens:
        return None
    return HeldOutScore(
        tally.loss, plain(tally.perplexity), plain(tally.word_perplexity), tally.bits_per_byte
    )


def _comparison(evidence: Evidence) -> HeldOutComparison | None:
    """The two models on the held-out texts; they share a tokenizer, so tokens pair off."""
    tuned = evidence.tuned
    total = sum(tuned.scores, Tally())
    if not total.tokens:
        return None
    found = compare_losses(evidence.tallies(evidence.base), evidence.tallies(tuned))
    return HeldOutComparison(
        records=len(evidence.held_out),
        tokens=round(total.tokens),
        words=round(total.words),
        bytes=round(total.bytes),
        context=tuned.windows.context,
        stride=tuned.windows.stride,
        likelier=found.likelier,
        change=found.change,
        standard_error=found.standard_error,
        units=found.groups,
        p_value=found.p_value,
        method=found.method,
        outcome=found.outcome,
    )


def _course(evidence: Evidence) -> Course:
    points = thin_out(evidence.points, _MOST_CURVE_POINTS)
    steps = points[-1].step if points else evidence.kept_step
    return Course(points, steps, evidence.kept_step, evidence.end_reason)


def thin_out(points: Sequence[CurvePoint], most: int) -> tuple[CurvePoint, ...]:
    """At most so many points, and all that were evaluated; those in between become one, or part of these."""
    size = -(-len(points) // most)
    bins: list[list[CurvePoint]] = [[]]
    for point in points:
        bins[-1].append(point)
        if len(bins[-1]) == size or point.held_out_loss is not None:
            bins.append([])
    return tuple(_merged(each) for each in bins if each)


def _merged(points: Sequence[CurvePoint]) -> CurvePoint:
    train = [point.train_loss for point in points if point.train_loss is not None]
    mean = sum(train) / len(train) if train else None
    return CurvePoint(points[-1].step, mean, points[-1].held_out_loss)
