"""Everything a report says, as plain values; what `report.json` holds.

Main entries: `Report`, `report_from_json`, `report_to_json`. Invariant: the page is made from this alone, so
a `report.json` that was kept gives the page again, and reading what was written gives an equal report.
"""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from conjure.errors import DataError
from conjure.lm.report.novelty import Novelty, Originality, Run

SCHEMA = 1  # a change that an older conjure would misread makes it one more

Tone = Literal["good", "mixed", "bad", "unknown"]
State = Literal["learned", "unchanged", "nothing_held_out", "not_comparable"]
Outcome = Literal["better", "worse", "unclear"]
Plain = dict[str, Any]  # values that JSON knows


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """How likely a model finds held-out text; the protocol is `conjure.lm.generation.score`'s.

    Attributes:
        loss: Mean nats per token.
        perplexity: ``exp(loss)``; comparable between models of one tokenizer only. None where it is too large
            for a number.
        word_perplexity: ``exp`` of mean nats per word; None where it is too large, or there is no word.
        bits_per_byte: Mean bits per UTF-8 byte; comparable between tokenizers.
    """

    loss: float
    perplexity: float | None
    word_perplexity: float | None
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class HeldOutComparison:
    """Base and tuned model on the same held-out texts, each group of which counts once.

    Attributes:
        records: Texts scored, each after an end-of-text token.
        tokens: Tokens scored.
        words: Whitespace-separated words scored.
        bytes: UTF-8 bytes scored.
        context: Tokens a model sees at once.
        stride: Tokens from one window to the next.
        likelier: Groups the tuned model finds likelier than the base does.
        change: Tuned minus base loss, nats per token; below 0 is better.
        standard_error: Of `change`, over the groups; None of fewer than two.
        units: What was counted: groups of records that say the same, or, of few long texts, stretches of
            `conjure.lm.report.statistics.STRETCH_TOKENS` tokens. A report of 0.1.0 counted texts.
        p_value: Of the sign-flip test over these; None in a report of 0.1.0, as the next two.
        method: How the test was made: ``exact``, ``sampled`` or ``normal``.
        outcome: What it shows.
    """

    records: int
    tokens: int
    words: int
    bytes: int
    context: int
    stride: int
    likelier: int
    change: float
    standard_error: float | None
    units: int | None = None
    p_value: float | None = None
    method: str | None = None
    outcome: Outcome | None = None

    @property
    def counted(self) -> int:
        """How many were counted: `units`, or texts in a report of 0.1.0."""
        return self.units if self.units is not None else self.records


@dataclass(frozen=True, slots=True)
class HeldOutFacts:
    """What was held out, and how much of it was scored.

    Attributes:
        method: ``records``, ``tail``, ``file`` or ``none``, as `conjure.lm.text.split.Split` has it.
        reason: Why it is not records, as a sentence; None where it is.
        records: Records held out.
        groups: Groups of records that say the same among them.
        scored_records: Records scored: all, unless they have more tokens than training processed.
        scored_groups: Groups scored.
        excluded_shared: Records left out of these, because the like is also trained on.
        seen_by_base: Held-out records not scored: the base model was trained on them or near-duplicates.
        base_files: What the base model was itself tuned on, where it is not known which records that was.
    """

    method: str
    reason: str | None
    records: int
    groups: int
    scored_records: int
    scored_groups: int
    excluded_shared: int
    seen_by_base: int = 0
    base_files: tuple[str, ...] = ()

    @property
    def nothing_comparable(self) -> bool:
        """Whether all that could be held out is also trained on, or was before."""
        return self.records == self.seen_by_base and self.excluded_shared + self.seen_by_base > 0

    @property
    def all_seen_by_base(self) -> bool:
        """Whether the base model was trained on all that is held out."""
        return 0 < self.records == self.seen_by_base


@dataclass(frozen=True, slots=True)
class LengthFigures:
    """Lengths of some texts in tokens, the longest a sample can have being the limit.

    Attributes:
        shares: Share of the texts in each bin of the report's `LengthScale`.
        mean: Mean length, longer texts counted as the limit.
        median: The middle one.
        at_limit: Share of texts that are as long as the limit, or longer.
        distance: Wasserstein-1 distance to the data's records, tokens.
    """

    shares: tuple[float, ...]
    mean: float
    median: float
    at_limit: float
    distance: float


@dataclass(frozen=True, slots=True)
class LengthScale:
    """What lengths are measured against.

    Attributes:
        limit: Most tokens a sample may have.
        width: Tokens a bin is wide; the first starts at 0.
        data: The data's records.
        usual_distance: 95 in 100 handfuls of real records, as many as there are samples, are closer to all
            the records than this.
    """

    limit: int
    width: int
    data: LengthFigures
    usual_distance: float


@dataclass(frozen=True, slots=True)
class Diversity:
    """How varied some texts are.

    Attributes:
        words: Words that distinct-n was measured on; the same for all sides.
        distinct: distinct-1, -2, -3: share of different n-grams among all.
        self_bleu: Mean BLEU-4 of each text against the others, of as many texts on all sides.
        repeated: Texts that repeat an earlier one word for word.
        texts: How many texts were looked at for those: no more than there are samples. None in a report that
            looked at all, and compared self-BLEU of different numbers of texts.
    """

    words: int
    distinct: tuple[float | None, ...]
    self_bleu: float | None
    repeated: int
    texts: int | None = None


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """One sample.

    Attributes:
        index: Which one; with the seed it gives the sample again, where there is one prompt.
        text: What the model wrote.
        tokens: Its length.
        loss: Mean nats per token under the model that wrote it, the end-of-text token included.
        finish_reason: Why it ended.
        originality: Whether it is a copy.
        run: Its longest verbatim run.
        near_record: Number of the training record, from 0, with which it has most words in the same order;
            None where it has few in common with any.
        prompt: What it answers; empty where it starts a document.
    """

    index: int
    text: str
    tokens: int
    loss: float
    finish_reason: str
    originality: Originality
    run: Run
    near_record: int | None = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class ExtractedShare:
    """How often a model that is given the first half of a record writes the second half, token for token.

    Attributes:
        records: Records tried.
        extracted: Records whose second half was written without a wrong token.
    """

    records: int
    extracted: int

    @property
    def share(self) -> float:
        """Extracted records among those tried."""
        return self.extracted / self.records


@dataclass(frozen=True, slots=True)
class Extraction:
    """The same for records trained on and for held-out ones; None where there is none long enough."""

    training: ExtractedShare | None
    held_out: ExtractedShare | None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Samples by their own likelihood per token, as places in the list of samples, likeliest first."""

    best: tuple[int, ...]
    typical: tuple[int, ...]
    worst: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelResults:
    """One of the two models.

    Attributes:
        name: What it is called.
        held_out: Its held-out score; None where nothing is held out.
        lengths: How long its samples are.
        novelty: What they have in common with the training records.
        diversity: How varied they are.
        gallery: Which of them to look at.
        samples: All of them.
        extraction: What it can recite; None in a report of 0.1.0, which did not measure it.
    """

    name: str
    held_out: HeldOutScore | None
    lengths: LengthFigures
    novelty: Novelty
    diversity: Diversity
    gallery: Gallery
    samples: tuple[SampleFacts, ...]
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class HeldOutBaseline:
    """The same figures for held-out text cut to a sample's length: what is normal for such text.

    Attributes:
        novelty: Of held-out records, one of each group, that are no copies or near copies of a training
            record themselves.
        diversity: Of the same.
        left_out: Held-out records that are, and so show nothing of unseen text.
    """

    novelty: Novelty
    diversity: Diversity
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class TrainingText:
    """The training records that the texts were compared with."""

    records: int
    characters: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A moment in training; losses in nats per token, None where not measured."""

    step: int
    train_loss: float | None
    held_out_loss: float | None


@dataclass(frozen=True, slots=True)
class Course:
    """How training went.

    Attributes:
        points: Losses, thinned out where there are very many.
        steps: Optimizer steps made.
        kept_step: The step whose weights the tuned model has.
        end_reason: ``completed``, ``early_stop`` or ``interrupted``.
    """

    points: tuple[CurvePoint, ...]
    steps: int
    kept_step: int
    end_reason: str

    @property
    def nothing_learned(self) -> bool:
        """Whether the tuned model is the base, unchanged."""
        return self.kept_step == 0


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question.

    Attributes:
        question: Such as "Is it just copying?".
        tone: Whether the answer is good news.
        answer: In a few words.
        detail: The figures behind it, as one or two sentences.
    """

    question: str
    tone: Tone
    answer: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the figures come to.

    Attributes:
        headline: A sentence.
        findings: The answers it is made of.
        state: ``learned`` where there is a tuned model to judge; ``unchanged`` where the best step is 0;
            ``nothing_held_out``, and ``not_comparable`` where all that is held out is also trained on,
            or was when the base model was made.
        next_step: What to try next, as a sentence; None where nothing is called for.
    """

    headline: str
    findings: tuple[Finding, ...]
    state: State = "learned"
    next_step: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a fine-tuned model learned.

    Attributes:
        schema: `SCHEMA` of the conjure that wrote it.
        title: Such as "sprite tuned on jokes.csv".
        verdict: In plain words.
        base: The model before.
        tuned: The model after.
        held_out: The two on held-out text; None where nothing is held out.
        lengths: What lengths are measured against.
        normal: What is normal for text of this kind; None where nothing is held out.
        training_text: What samples were compared with.
        course: How training went.
        sampling: Settings of the samples, the seed among them.
        settings: Settings of the training.
        data: Facts about the data.
        run: Number of the run that made it; None outside a run, and in a report of 0.1.0.
        held_out_facts: What was held out; None in a report of 0.1.0.
    """

    schema: int
    title: str
    verdict: Verdict
    base: ModelResults
    tuned: ModelResults
    held_out: HeldOutComparison | None
    lengths: LengthScale
    normal: HeldOutBaseline | None
    training_text: TrainingText
    course: Course
    sampling: Plain
    settings: Plain
    data: Plain
    run: int | None = None
    held_out_facts: HeldOutFacts | None = None


def report_to_json(report: Report) -> str:
    """The content of `report.json`: plain JSON; numbers it cannot hold (NaN, infinity) are null."""
    return json.dumps(plain(asdict(report)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def report_from_json(text: str) -> Report:
    """Read the content of a `report.json`.

    Raises:
        DataError: It is damaged, or a newer conjure wrote it.
    """
    try:
        values = json.loads(text)
        schema = values["schema"]
        if schema > SCHEMA:
            raise DataError(
                f"the report has schema {schema}; this version of conjure reads schemas up to {SCHEMA}",
                hint="use the version that wrote it, or a newer one",
            )
        return _decode(Report, values)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the report is damaged: {error!r}") from error


def plain(value: Any) -> Any:
    """The same in values that JSON knows; NaN and infinity, which it does not, become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _decode(kind: Any, value: Any) -> Any:
    """A value of JSON as the type a field is annotated with."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        given = (field for field in fields(kind) if field.default is MISSING or field.name in value)
        return kind(**{field.name: _decode(hints[field.name], value[field.name]) for field in given})  # pyright: ignore[reportCallIssue]
    if origin in (Union, types.UnionType):
        return None if value is None else _decode(arguments[0], value)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_decode(item_kind, item) for item_kind, item in zip(kinds, value, strict=True))
    if kind is float and isinstance(value, int):
        return float(value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is none of {', '.join(arguments)}")
        return value
    if not isinstance(value, origin or kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
