"""Blocks: shapes, overlap, padding, segments, and an order that can be taken up anywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conjure.errors import DataError
from conjure.lm.nn.loss import IGNORE
from conjure.lm.text.chat.encoding import ANSWER, GIVEN
from conjure.lm.text.split import TokenStream
from conjure.lm.training.packing import PADDING_SEGMENT, Blocks


def stream_of(lengths, *, end_of_text=True):
    """A stream of records with these lengths (end of text included) whose ids count up from 0."""
    ends = np.cumsum(lengths)
    return TokenStream(
        np.arange(ends[-1]).astype("<u2"), ends - lengths, ends, end_of_text, np.arange(len(ends))
    )


def test_blocks_overlap_by_one_token_and_the_tail_is_masked():
    blocks = Blocks(stream_of([4, 6]), 4)
    assert (len(blocks), blocks.target_count) == (3, 9)
    batch = blocks.batch([0, 2])
    assert batch.ids.dtype == batch.targets.dtype == batch.segments.dtype == torch.int64
    assert batch.ids.tolist() == [[0, 1, 2, 3], [8, 0, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3, 4], [9, IGNORE, IGNORE, IGNORE]]
    assert batch.target_count == 5


def test_end_of_text_opens_the_next_record():
    batch = Blocks(stream_of([3, 2, 4]), 8).batch([0])
    #                              a b | c | d e f
    assert batch.segments.tolist() == [[0, 0, 1, 1, 2, 2, 2, 2]]


def test_without_end_of_text_a_token_is_in_its_own_record():
    batch = Blocks(stream_of([3, 2, 4], end_of_text=False), 8).batch([0])
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]


def test_padding_is_in_no_record():
    batch = Blocks(stream_of([3, 2]), 3).batch([1])
    assert batch.segments.tolist() == [[1, PADDING_SEGMENT, PADDING_SEGMENT]]


def test_a_short_stream_has_a_short_block():
    blocks = Blocks(stream_of([5]), 1024)
    assert (blocks.block_size, len(blocks)) == (4, 1)
    assert blocks.batch([0]).ids.shape == (1, 4)


@pytest.mark.parametrize("lengths", [[1]])
def test_one_token_has_nothing_to_predict(lengths):
    with pytest.raises(DataError, match="1 token has nothing to predict"):
        Blocks(stream_of(lengths), 8)


def test_two_tokens_are_enough():
    blocks = Blocks(stream_of([2]), 8)
    assert (len(blocks), blocks.batch([0]).targets.tolist()) == (1, [[1]])


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 16])
def test_blocks_to_measure_on_are_the_first_that_have_a_target(block_size):
    kinds = np.full(17, GIVEN, np.uint8)
    kinds[[3, 7, 8, 16]] = ANSWER
    blocks = Blocks(replace(stream_of([8, 9]), kinds=kinds), block_size)
    expected = [number for number in range(len(blocks)) if blocks.batch([number]).target_count]
    assert blocks.counting(100) == expected
    assert blocks.counting(2) == expected[:2]


def test_the_last_batch_has_what_is_left():
    blocks = Blocks(stream_of([50]), 5)
    assert [len(batch.ids) for batch in blocks.epoch(0, batch_size=4, seed=1)] == [4, 4, 2]


def test_epochs_and_seeds_have_orders_of_their_own():
    blocks = Blocks(stream_of([400]), 4)
    assert blocks.order(0, 1) == blocks.order(0, 1)
    orders = {tuple(blocks.order(epoch, seed)) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(len(blocks))) for order in orders)


def test_an_epoch_can_be_taken_up_anywhere():
    blocks = Blocks(stream_of([101]), 7)
    unbroken = [batch.ids for batch in blocks.epoch(3, batch_size=2, seed=9)]
    for taken in range(len(unbroken)):
        rest = [batch.ids for batch in blocks.epoch(3, batch_size=2, seed=9, start=2 * taken)]
        assert len(rest) == len(unbroken) - taken
        assert all(torch.equal(a, b) for a, b in zip(rest, unbroken[taken:], strict=True))


def test_blocks_are_numbered_first_to_last():
    blocks = Blocks(stream_of([20]), 4)
    ids = blocks.batch(range(len(blocks))).ids
    assert ids.flatten()[:19].tolist() == list(range(19))


def test_records_apart_in_the_file_are_together_in_the_stream():
    ids = np.arange(12).astype("<u2")
    stream = TokenStream(ids, np.array([2, 8]), np.array([3, 6]), end_of_text=True, labels=np.arange(2))
    assert stream.read(0, 6).tolist() == [2, 3, 4, 8, 9, 10]
    assert stream.read(2, 4).tolist() == [4, 8]


@pytest.mark.parametrize("start_id", [9, 8])
@pytest.mark.parametrize("block_size", [1, 2, 3, 10])
def test_a_token_that_starts_a_record_is_learned_where_it_ends_one(block_size, start_id):
    """GPT-2 has one token for both; and a text may spell a token that starts texts."""
    ids = np.array([start_id, 1, 9, start_id, 2, start_id, 3, 9, start_id, 9])
    ends = np.array([3, 8, 10])
    stream = TokenStream(
        ids, np.array([0, 3, 8]), ends, end_of_text=True, labels=np.arange(3), start_id=start_id
    )
    blocks = Blocks(stream, block_size)
    targets = blocks.batch(range(len(blocks))).targets.flatten()[: blocks.target_count]
    assert targets.tolist() == [1, 9, IGNORE, 2, start_id, 3, 9, IGNORE, 9]


def test_every_token_counts_what_its_record_does():
    weights = np.array([1, 0.25, 0.5], np.float32)
    stream = replace(stream_of([3, 4, 5]), weights=weights)
    batch = Blocks(stream, 20).batch([0])
    assert batch.weights[0].tolist() == [1] * 2 + [0.25] * 4 + [0.5] * 5
    assert batch.total_weight == pytest.approx(2 + 1 + 2.5)
    assert Blocks(stream_of([3, 4, 5]), 20).batch([0]).total_weight == 11
