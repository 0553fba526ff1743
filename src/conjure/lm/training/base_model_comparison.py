"""What a fine-tune changed: both models measured alike, and the report on it.

Main entries: `measure`, `write_report`. Invariant: both models write from the same seeds and score the same
held-out texts by the same protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from conjure.errors import ConjureError
from conjure.lm.generation.request import GenerationRequest, prompt_text
from conjure.lm.generation.score import Tally
from conjure.lm.language_model import load
from conjure.lm.models.base import CausalLM
from conjure.lm.report import build
from conjure.lm.report.analysis import Evidence, analyse
from conjure.lm.report.compared_records import Training, seen_in_training
from conjure.lm.report.measure_model import (
    FEWEST_SCORED_TOKENS,
    HeldOutTexts,
    Observation,
    Progress,
    held_out_texts,
    measure_model,
    record_texts,
    some_records,
)
from conjure.lm.report.report_schema import HeldOutFacts
from conjure.lm.report.statistics import group_tallies
from conjure.lm.text.split import TokenStream
from conjure.lm.training.history import Trained
from conjure.lm.training.preparation import Prepared

_REPORT_SAMPLES, _REPORT_TOKENS = 50, 100  # of each model, for the report


@dataclass(frozen=True, slots=True)
class Comparison:
    """The base model and the tuned one, measured alike.

    Attributes:
        before: What was observed of the base model.
        after: What was observed of the tuned model.
        held_out: The held-out texts that both scored.
        request: What both wrote.
        seen_by_base: Held-out records left out: the base model was trained on them or near-duplicates.
        base_files: What the base model was itself tuned on, where it is not known which records that was.
    """

    before: Observation
    after: Observation
    held_out: HeldOutTexts
    request: GenerationRequest
    seen_by_base: int = 0
    base_files: tuple[str, ...] = ()

    def tally(self, observation: Observation) -> Tally | None:
        """Sums and counts over the held-out groups, each the mean of its records; None without any."""
        scores = observation.scores
        return sum(group_tallies(scores, self.held_out.units(len(scores))), Tally()) if scores else None

    def facts(self, prepared: Prepared) -> HeldOutFacts:
        """What was held out, and how much of it was scored."""
        split = prepared.split
        return HeldOutFacts(
            method=split.method,
            reason=split.reason,
            records=split.heldout.records if split.heldout is not None else 0,
            groups=split.heldout.groups if split.heldout is not None else 0,
            scored_records=len(self.held_out.texts),
            scored_groups=len(set(self.held_out.groups)),
            excluded_shared=split.excluded,
            seen_by_base=self.seen_by_base,
            base_files=self.base_files,
        )


def measure(
    prepared: Prepared,
    trained: Trained,
    on_progress: Callable[[str, float], object] | None = None,
    *,
    base_trainings: Sequence[Training] = (),
) -> Comparison:
    """Measure the base model and the tuned one in the output folder.

    The base model is measured only now: measured first, it would delay the training.

    Args:
        prepared: The fine-tune.
        trained: What training it came to.
        on_progress: Told which model is being measured, and the share of that which is done.
        base_trainings: Those that the base model came of, where they are known.
    """
    # What is scored is no more than training read, unless that is very little.
    most = max(FEWEST_SCORED_TOKENS, trained.history.tokens)
    unseen, base_files = _unseen_by_base(prepared, base_trainings)
    held_out = held_out_texts(
        unseen,
        prepared.tokenizer,
        tokens=most,
        allow_special=prepared.request.reads_special_tokens,
    )
    recited = some_records(prepared.split.train, prepared.tokenizer)
    request = prepared.generation_request(_REPORT_SAMPLES, _REPORT_TOKENS)

    def observed(name: str, model: CausalLM, progress: Progress | None) -> Observation:
        return measure_model(
            name,
            model.to(prepared.device),
            prepared.tokenizer,
            held_out,
            request,
            trained_on=recited,
            on_progress=progress,
        )

    def told(which: str) -> Progress | None:
        return partial(on_progress, which) if on_progress is not None else None

    before = observed(prepared.base.origin, prepared.base.model, told("the base model"))
    after = observed(str(prepared.request.output), load(prepared.output).model, told("the tuned model"))
    seen = prepared.split.heldout.records if prepared.split.heldout is not None else 0
    seen -= unseen.records if unseen is not None else 0
    return Comparison(before, after, held_out, request, seen, base_files)


def _unseen_by_base(
    prepared: Prepared, trainings: Sequence[Training]
) -> tuple[TokenStream | None, tuple[str, ...]]:
    """The held-out text without what the base model was trained on, or what files that was if not known."""
    stream, files = prepared.split.heldout, prepared.base_files
    if stream is None or not (trainings or files):
        return stream, ()
    try:
        if not trainings:
            return stream, files
        seen = seen_in_training(trainings, *prepared.measured, stream, prepared.tokenizer)
    except ConjureError:  # the files are no longer there, for instance
        return stream, files
    unseen = stream.select(~seen)
    return (unseen if unseen.has_targets else None), ()


def write_report(
    prepared: Prepared, trained: Trained, comparison: Comparison, folder: Path, *, run: int | None = None
) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder; returns the page.

    The training text is read once more, to see what the samples have in common with it.

    Args:
        prepared: The fine-tune.
        trained: What training it came to.
        comparison: What `measure` found.
        folder: Where to.
        run: Number of the run that this is part of, if any.
    """
    plan, held_out = prepared.plan, comparison.held_out
    evidence = Evidence(
        title=f"{prepared.base.origin} tuned on {', '.join(str(f['name']) for f in plan.data.files)}",
        base=comparison.before,
        tuned=comparison.after,
        request=replace(
            comparison.request, prompts=[prompt_text(each) for each in comparison.request.prompts]
        ),
        tokenizer=prepared.tokenizer,
        training=record_texts(prepared.split.train, prepared.tokenizer),
        held_out=held_out.texts,
        record_lengths=prepared.text.written_lengths(prepared.tokenizer.end_ids),
        points=trained.history.points(),
        kept_step=trained.best_step,
        end_reason=trained.reason,
        settings=prepared.settings(),
        data=plan.data.to_dict(),
        run=run,
        held_out_units=held_out.units(len(comparison.after.scores)),
        held_out_facts=comparison.facts(prepared),
    )
    return build.write_report(folder, analyse(evidence))
