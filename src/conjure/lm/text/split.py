"""Which part of a text a model is not trained on, so that what it learned can be measured.

Main entries: `split_records`, and below it `hold_out` and `hold_out_file`. What goes to one side is a group
of records that say the same (`conjure.lm.text.near_duplicates`), and the hash of its first record decides, so
a group stays on its side when records are added after it, unless one joins it to another. Invariants: no
record is measured on if another of its group is trained on; every token is a training token or a held-out
token, never both. One exception: conversations may be of one group because they share an instruction, and in
a file to measure on, those are left out that give an answer which is trained on
(`conjure.lm.text.repeated_answers`), not those of the same group.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from conjure.core.text import plural
from conjure.errors import DataError, UsageError
from conjure.lm.text.chat.encoding import ANSWER
from conjure.lm.text.near_duplicates import DuplicateGroups, groups_of_equals
from conjure.lm.text.records import RecordSet
from conjure.lm.text.token_cache import TokenisedText, find_groups

Dedup = Literal["keep", "drop", "weight"]
DEDUP: tuple[Dedup, ...] = ("keep", "drop", "weight")
DEFAULT_DEDUP: Dedup = "drop"  # of a fine-tune: measured (docs/data.md)

MINIMUM_GROUPS = 8  # fewer by their hashes, and the share is made up with those next in order
_READ_TOKENS = 1 << 20
_TAIL = 0.1  # share of the tokens held out where there are too few groups
_LEAST_OF_THE_REST = 0.5  # of the tokens to train on, if the chosen groups were as long as the others
_MOST_OF_A_TEXT = 0.5  # a group with more of the records than this is trained on
_MANY_DIFFERENT = 10  # records of one group: rather those of a task than one that is told again

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Some records' tokens as one sequence, read from the memory-mapped file when asked for.

    Attributes:
        ids: All ids of the text, (N,).
        starts: Where each record of this stream starts in `ids`, int64, (R,).
        ends: Where each record of this stream ends in the stream, int64, (R,).
        end_of_text: Whether every record is followed by the end-of-text token.
        labels: The group of each record, int64, (R,).
        weights: What each record counts in training, float32, (R,); None where all count alike.
        start_id: The token that every record starts with; None where there is none.
        kinds: Of conversations, what each of `ids` is to training (`conjure.lm.text.chat.encoding`); else
            None.
        given_weight: What a token counts in training that is not part of an answer.
        repeats: A number for each record, equal where one repeats what the other says, int64, (R,); None
            where those are the groups.
    """

    ids: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    end_of_text: bool
    labels: Numbers
    weights: npt.NDArray[np.float32] | None = None
    start_id: int | None = None
    kinds: npt.NDArray[np.uint8] | None = None
    given_weight: float = 0.0
    repeats: Numbers | None = None

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def records(self) -> int:
        """Number of records, wholly or partly in the stream."""
        return len(self.ends)

    @property
    def has_targets(self) -> bool:
        """Whether there is a token to predict that counts: of conversations, one of an answer."""
        return len(self) >= 2 and (self.kinds is None or bool(self.weights_of(1, len(self)).any()))

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The ids of tokens `start` to `stop` of the stream, int64, (stop - start,)."""
        return self.ids[self._places(start, stop)].astype(np.int64)

    def place_of(self, record: int) -> slice:
        """Where a record of the stream is in `ids`."""
        size = int(self.ends[record]) - (int(self.ends[record - 1]) if record else 0)
        start = int(self.starts[record])
        return slice(start, start + size)

    def _places(self, start: int, stop: int) -> Numbers:
        """Where tokens `start` to `stop` of the stream are in `ids`."""
        positions = np.arange(start, stop)
        records = np.searchsorted(self.ends, positions, side="right")
        before = np.where(records > 0, self.ends[records - 1], 0)
        return self.starts[records] + positions - before

    @property
    def is_weighted(self) -> bool:
        """Whether tokens count otherwise than fully or not at all."""
        return self.weights is not None or (self.kinds is not None and self.given_weight not in (0, 1))

    def weights_of(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """What tokens `start` to `stop` of the stream count in training, float32, (stop - start,)."""
        weights = np.ones(stop - start, np.float32)
        if self.weights is not None:
            weights = self.weights[np.searchsorted(self.ends, np.arange(start, stop), side="right")]
        if self.kinds is not None:
            by_kind = np.array([0.0, self.given_weight, 1.0], np.float32)  # FIRST, GIVEN, ANSWER
            weights = weights * by_kind[self.kinds[self._places(start, stop)]]
        return weights

    @property
    def answer_tokens(self) -> int | None:
        """How many of the tokens are answers; None of plain text."""
        if self.kinds is None:
            return None
        starts = range(0, len(self), _READ_TOKENS)
        spans = (self._places(start, min(start + _READ_TOKENS, len(self))) for start in starts)
        return sum(int((self.kinds[places] == ANSWER).sum()) for places in spans)

    @property
    def groups(self) -> int:
        """Number of groups of records in the stream."""
        return len(np.unique(self.labels))

    def select(self, chosen: Mask) -> "TokenStream":
        """The records of a mask, (R,), and no others."""
        sizes = np.diff(self.ends, prepend=0)[chosen]
        weights = self.weights[chosen] if self.weights is not None else None
        return replace(
            self,
            starts=self.starts[chosen],
            ends=np.cumsum(sizes),
            labels=self.labels[chosen],
            weights=weights,
            repeats=self.repeats[chosen] if self.repeats is not None else None,
        )

    @property
    def digest(self) -> str:
        """Hex SHA-256 of which parts of the text the stream has, and what they count."""
        found = sha256(self.starts.tobytes())
        found.update(self.ends.tobytes())
        if self.weights is not None:
            found.update(self.weights.tobytes())
        return found.hexdigest()

    @property
    def repeat_numbers(self) -> Numbers:
        """A number for each record, equal where one repeats what the other says, (R,)."""
        return self.repeats if self.repeats is not None else self.labels

    def first_of_each_group(self) -> "TokenStream":
        """The first record of every group; all of them where those are too short to predict anything."""
        return self._first_of_each(self.labels)

    def without_repeats(self) -> "TokenStream":
        """The records that repeat no other; all of them where those are too short to predict anything."""
        return self._first_of_each(self.repeat_numbers)

    def _first_of_each(self, numbers: Numbers) -> "TokenStream":
        once = self.select(_first_of_group(numbers))
        return once if len(once) >= 2 else self


@dataclass(frozen=True, slots=True)
class Split:
    """A text in two parts.

    Attributes:
        train: What a model is trained on.
        heldout: What it is measured on; None if nothing is held out. Where the tail is held out, its first
            token is also the last one trained on: it is context there, never a target of both.
        method: `records`, `tail`, `file` or `none`.
        reason: Why it is not records, as a sentence for the plan; None where it is.
        excluded: Records that would be held out, but are left out because the like is trained on.
        dropped: Records that are not trained on because they repeat others that are.
        remark: What is worth knowing about what is held out, as a sentence for the plan; None for nothing.
    """

    train: TokenStream
    heldout: TokenStream | None
    method: str
    reason: str | None = None
    excluded: int = 0
    dropped: int = 0
    remark: str | None = None


def split_records(
    records: RecordSet,
    text: TokenisedText,
    validation: tuple[RecordSet, TokenisedText] | None,
    *,
    holdout: float,
    dedup: Dedup,
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """Split records as a fine-tune does: a share of them is held out, or a file of the user's.

    Args:
        records: What to train on.
        text: The same in tokens.
        validation: What to measure on, and the same in tokens; None holds out a share of `records`.
        holdout: That share.
        dedup: See `hold_out`.
        progress: Told the bytes of text done and in all.
    """
    if validation is None:
        groups = find_groups([records], refused=[text.refused], progress=progress)
        return hold_out(text, holdout, groups=groups, dedup=dedup)
    measured, measured_text = validation
    refused = [text.refused, measured_text.refused]
    groups = find_groups([records, measured], refused=refused, progress=progress)
    return hold_out_file(text, measured_text, groups, dedup=dedup)


def hold_out(
    text: TokenisedText,
    fraction: float = 0.1,
    *,
    groups: DuplicateGroups | None = None,
    dedup: Dedup = "keep",
) -> Split:
    """Split a text into a part to train on and a part to measure on.

    Args:
        text: The text.
        fraction: Share of the groups to hold out, 0 (none) up to but not including 1. Where that is less than
            one group, or leaves less than half as many tokens to train on as groups of equal lengths would,
            the last tenth of the tokens is held out.
        groups: The groups of its records; None for those that are equal.
        dedup: What to train on where several records say the same (of conversations, in their answers too):
            on all (``keep``), on the first (``drop``), or on all, which together count as one (``weight``).

    Raises:
        UsageError: `fraction` is outside 0…1.
        DataError: The text is a single token: there is nothing to predict.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"holdout must be a fraction from 0 (none) to below 1 (such as 0.1), not {fraction}")
    total = len(text.ids)
    if total < 2:
        raise DataError(f"the text has {plural(total, 'token')}; at least 2 are needed")
    groups = groups if groups is not None else groups_of_equals(text.hashes)
    everything = _all_records(text, groups)
    return _deduplicated(_split(text, everything, groups, fraction), dedup)


def all_records(text: TokenisedText) -> TokenStream:
    """The whole text; each record is a group of those that are equal."""
    return _all_records(text, groups_of_equals(text.hashes))


def train_part_of_0_1(text: TokenisedText, fraction: float) -> TokenStream:
    """What conjure 0.1 trained on: it looked at each record by itself, and dropped none.

    Args:
        text: The text.
        fraction: Share of the records that it held out.
    """
    everything, total = all_records(text), len(text.ids)
    held_out = text.hashes < np.uint64(int(fraction * 2**64))
    rest = everything.select(~held_out)
    if fraction == 0 or (held_out.sum() >= MINIMUM_GROUPS and len(rest) >= 2):
        return rest
    if total < 3:
        return everything
    return _span(text, groups_of_equals(text.hashes), 0, total - max(1, round(_TAIL * total)))


def hold_out_file(
    text: TokenisedText, validation: TokenisedText, groups: DuplicateGroups, *, dedup: Dedup = "keep"
) -> Split:
    """Train on a whole text, and measure on another, but for what stands in the first as well.

    Args:
        text: What to train on.
        validation: What to measure on.
        groups: The groups of the records of both, those of `text` first.
        dedup: See `hold_out`.

    Raises:
        DataError: The text is a single token: there is nothing to predict.
    """
    if len(text.ids) < 2:
        raise DataError(f"the text has {plural(len(text.ids), 'token')}; at least 2 are needed")
    count = len(text.ends)
    train = _all_records(text, groups)
    held_out = replace(
        _all_records(validation, groups),
        labels=groups.labels[count:],
        repeats=groups.repeat_numbers[count:],
    )
    kept = ~repeating_training(groups, np.arange(len(groups.labels)) < count)[count:]
    excluded = int((~kept).sum())
    remaining = held_out.select(kept)
    if len(remaining) < 2:
        reason = "every record of the validation file is also in the training text, exactly or nearly"
        return _deduplicated(Split(train, None, "none", reason, excluded), dedup)
    reason = "the validation file is held out"
    if excluded:
        reason += f", except {excluded:,} of its {len(kept):,} records that are also in the training text"
    return _deduplicated(Split(train, remaining, "file", reason, excluded), dedup)


def _split(text: TokenisedText, everything: TokenStream, groups: DuplicateGroups, fraction: float) -> Split:
    if fraction == 0:
        return Split(everything, None, "none", "nothing is held out, as requested")
    held_out = _chosen_groups(text, groups, fraction)[groups.labels]
    if held_out.any():
        left_out = held_out & overlapping_training(groups, ~held_out)
        train = everything.select(~held_out)
        measured = everything.select(held_out & ~left_out)
        enough = max(2, _LEAST_OF_THE_REST * (1 - fraction) * len(everything))
        if len(train) >= enough and len(measured) >= 2:
            remark = _of_untrained_tasks(measured)
            return Split(train, measured, "records", excluded=int(left_out.sum()), remark=remark)
    few = (
        "too little would be left to train on" if held_out.any() else f"the text has only {_records(groups)}"
    )
    return _hold_out_tail(text, everything, groups, few)


def _hold_out_tail(
    text: TokenisedText, everything: TokenStream, groups: DuplicateGroups, reason: str
) -> Split:
    """The last tokens, but for the records among them that stand before them as well."""
    total = len(text.ids)
    if total < 3:
        return Split(everything, None, "none", f"{total} tokens are too few to hold any out")
    cut = total - max(1, round(_TAIL * total))
    train, tail = _span(text, groups, 0, cut), _span(text, groups, cut - 1, total)
    if not train.has_targets:
        why = f"what comes before the last {_TAIL:.0%} of the tokens has no answer to train on"
        return Split(everything, None, "none", why)
    first = len(everything.ends) - tail.records  # the record that the cut goes through, or ends at
    # Trained on are the records before the cut and, to the others like it, also the one that it goes through.
    whole, begun = everything.ends <= cut, np.concatenate(([0], everything.ends[:-1])) < cut
    shared = (overlapping_training(groups, whole) | overlapping_training(groups, begun))[first:]
    excluded = int(shared.sum())
    measured = tail.select(~shared)
    if len(measured) < 2:
        why = "everything that could be held out is also in the rest of the text"
        return Split(everything, None, "none", why, excluded)
    if not measured.has_targets:
        why = f"the last {_TAIL:.0%} of the tokens, which could be held out, have no answer"
        return Split(everything, None, "none", why, excluded)
    reason = f"the last {_TAIL:.0%} of the tokens are held out: {reason}"
    return Split(train, measured, "tail", reason, excluded)


def _chosen_groups(text: TokenisedText, groups: DuplicateGroups, fraction: float) -> Mask:
    """Which groups to hold out, (groups,): those whose first records have the least hashes."""
    hashes = text.hashes[groups.first_records]
    eligible = groups.sizes <= max(1, _MOST_OF_A_TEXT * len(groups.labels))
    chosen = (hashes < np.uint64(int(fraction * 2**64))) & eligible
    share = round(fraction * groups.count)
    if chosen.sum() < min(MINIMUM_GROUPS, share):
        order = np.argsort(np.where(eligible, hashes, np.iinfo(np.uint64).max), kind="stable")
        chosen[order[:share]] = True
        chosen &= eligible
    return chosen


def _of_untrained_tasks(measured: TokenStream) -> str | None:
    """What to say where a group is held out whose records differ: it may be all there are of a task."""
    different = _first_of_group(measured.repeat_numbers)
    most = int(np.unique(measured.labels[different], return_counts=True)[1].max())
    if most < _MANY_DIFFERENT:
        return None
    return (
        f"{most:,} of the held-out records have much of their text in common, such as an instruction, and no"
        " record that has it too is trained on; to train on some of them, hold out a file of your own"
        " (--validation FILE)"
    )


def overlapping_training(groups: DuplicateGroups, trained: Mask) -> Mask:
    """Which records have the like among those of a mask, (R,): in their group, or as a longer neighbour."""
    found = np.zeros(len(trained), bool)
    found[groups.labels[trained]] = True
    return (found[groups.labels] | _near_training(groups, groups.labels, trained)) & ~trained


def repeating_training(groups: DuplicateGroups, trained: Mask) -> Mask:
    """As `overlapping_training`; of conversations, those that give an answer which one of the mask gives."""
    if groups.givers is None:
        return overlapping_training(groups, trained)
    return (trained[groups.givers] | _near_training(groups, groups.repeat_numbers, trained)) & ~trained


def _near_training(groups: DuplicateGroups, numbers: Numbers, trained: Mask) -> Mask:
    """Which records, or others of the same number, are too short for a group and stand in one of a mask."""
    records, others = groups.neighbours.T
    near = np.zeros(len(trained), bool)
    near[numbers[records[trained[others]]]] = True
    return near[numbers]


def _deduplicated(split: Split, dedup: Dedup) -> Split:
    stream = split.train
    if dedup == "keep":
        return split
    if dedup == "drop":
        once = stream.without_repeats()
        return replace(split, train=once, dropped=stream.records - once.records)
    _, inverse, sizes = np.unique(stream.repeat_numbers, return_inverse=True, return_counts=True)
    return replace(split, train=replace(stream, weights=(1 / sizes[inverse]).astype(np.float32)))


def _first_of_group(labels: Numbers) -> Mask:
    first = np.zeros(len(labels), bool)
    first[np.unique(labels, return_index=True)[1]] = True
    return first


def _records(groups: DuplicateGroups) -> str:
    count = len(groups.labels)
    records = plural(count, "record")
    return records if groups.count == count else f"{records}, {groups.count:,} of them different"


def _all_records(text: TokenisedText, groups: DuplicateGroups) -> TokenStream:
    ends = text.ends.astype(np.int64)
    starts = np.concatenate(([0], ends[:-1]))
    return TokenStream(
        text.ids,
        starts,
        ends,
        text.end_of_text,
        groups.labels[: len(ends)],
        start_id=text.start_id,
        kinds=text.kinds,
        repeats=groups.repeat_numbers[: len(ends)],
    )


def _span(text: TokenisedText, groups: DuplicateGroups, start: int, stop: int) -> TokenStream:
    """All tokens from `start` to `stop`; the records at its edges may be cut."""
    ends = text.ends.astype(np.int64)
    first = int(np.searchsorted(ends, start, side="right"))
    last = int(np.searchsorted(ends, stop, side="left"))
    inner = ends[first:last]
    return TokenStream(
        text.ids,
        np.concatenate(([start], inner)),
        np.concatenate((inner, [stop])) - start,
        text.end_of_text,
        groups.labels[first : last + 1],
        start_id=text.start_id,
        kinds=text.kinds,
        repeats=groups.repeat_numbers[first : last + 1],
    )
