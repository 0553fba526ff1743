"""No token is lost or counted twice, for any records and any block size."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.nn.loss import IGNORE
from conjure.lm.text.split import TokenStream
from conjure.lm.training.packing import PADDING_SEGMENT, Blocks

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1)


@st.composite
def streams(draw):
    """A stream of some of a text's records; every id in it is its place in the stream."""
    lengths = draw(LENGTHS)
    gaps = draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    ends = np.cumsum(lengths)
    starts = np.cumsum(gaps) + ends - lengths
    ids = np.full(int(starts[-1]) + lengths[-1], 60_000, "<u2")
    for start, end, length in zip(starts, ends, lengths, strict=True):
        ids[start : start + length] = range(end - length, end)
    return TokenStream(ids, starts, ends, draw(st.booleans()), np.arange(len(ends)))


@given(streams(), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**63))
def test_every_token_but_the_first_is_a_target_once(stream, block_size, batch_size, epoch, seed):
    blocks = Blocks(stream, block_size)
    targets = Counter()
    for batch in blocks.epoch(epoch, batch_size=batch_size, seed=seed):
        kept = batch.targets != IGNORE
        targets.update(batch.targets[kept].tolist())
        # Ids count up: a target's context ends with the token before it.
        assert (batch.ids[kept] == batch.targets[kept] - 1).all()
    assert targets == Counter(range(1, len(stream)))
    assert targets.total() == blocks.target_count


@given(streams(), st.integers(1, 20), st.integers(1, 5), st.data())
def test_going_on_gives_what_an_unbroken_epoch_gives(stream, block_size, batch_size, data):
    blocks = Blocks(stream, block_size)
    unbroken = [batch.ids.tolist() for batch in blocks.epoch(1, batch_size=batch_size, seed=5)]
    taken = data.draw(st.integers(0, len(unbroken)))
    rest = [
        batch.ids.tolist()
        for batch in blocks.epoch(1, batch_size=batch_size, seed=5, start=taken * batch_size)
    ]
    assert unbroken[:taken] + rest == unbroken


@given(streams(), st.integers(1, 20))
def test_a_token_sees_its_own_record_and_the_marker_before_it(stream, block_size):
    record_of = np.searchsorted(stream.ends, np.arange(len(stream)), side="right")
    for batch in Blocks(stream, block_size).epoch(0, batch_size=3, seed=0):
        parts = (batch.ids, batch.targets, batch.segments)
        for ids, targets, segments in zip(*(part.tolist() for part in parts), strict=True):
            for id_, target, segment in zip(ids, targets, segments, strict=True):
                if target == IGNORE:
                    assert segment == PADDING_SEGMENT
                elif stream.end_of_text:
                    assert segment == record_of[target]
                else:
                    assert segment == record_of[id_]
