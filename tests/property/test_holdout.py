"""The split: exhaustive, exclusive, and the same however the data grows."""

from random import Random

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conjure.lm.text.split import MINIMUM_GROUPS, hold_out
from conjure.lm.text.token_cache import TokenisedText


def text_of(lengths, hashes):
    """A text whose ids are their own places, without a file."""
    text = object.__new__(TokenisedText)
    text.ids = np.arange(sum(lengths)).astype("<u4")
    text.ends = np.cumsum(lengths).astype("<u8")
    text.hashes = np.array(hashes, "<u8")
    text.end_of_text = True
    text.start_id = None
    return text


RECORDS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**64 - 1)), min_size=1, max_size=60)
FRACTIONS = st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.9])


def tokens(stream):
    return set(stream.read(0, len(stream)).tolist()) if stream is not None else set()


@given(RECORDS.filter(lambda records: sum(length for length, _ in records) > 1), FRACTIONS)
@example([(1, 0)] * MINIMUM_GROUPS + [(1, 2**63)], 0.05)  # one token would be left to train on
def test_every_token_is_on_one_side(records, fraction):
    text = text_of(*zip(*records, strict=True))
    split = hold_out(text, fraction)
    train, heldout = tokens(split.train), tokens(split.heldout)
    if not split.excluded:
        assert train | heldout == set(range(len(text.ids)))
    # The last training token is the first held-out one's context, unless the record it lies in is left out.
    assert train & heldout <= ({len(split.train) - 1} if split.method == "tail" else set())
    assert len(train) >= 2
    if split.heldout is not None:
        whole = split.heldout.labels[split.method == "tail" :]  # the cut may go through one record
        assert not set(whole.tolist()) & set(split.train.labels.tolist())
    assert (split.heldout is None) == (split.method == "none")
    assert (split.reason is None) == (split.method == "records")


@given(st.integers(0, 2**32), st.integers(0, 50), st.sampled_from([0.1, 0.25, 0.5]))
@settings(max_examples=50)
def test_growing_data_moves_no_record(seed, added, fraction):
    random = Random(seed)

    def held_out(hashes):
        split = hold_out(text_of([2] * len(hashes), hashes), fraction)
        assert split.method == "records"
        return {hashes[start // 2] for start in split.heldout.starts}

    hashes = [random.getrandbits(64) for _ in range(400)]
    grown = [*hashes, *(random.getrandbits(64) for _ in range(added))]
    random.shuffle(grown)
    assert held_out(grown) & set(hashes) == held_out(hashes)
