"""Items taken together until there is enough of them."""

from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.text.batches import in_batches


@given(st.lists(st.text(max_size=9)), st.integers(1, 20))
def test_each_batch_is_enough_and_no_more(texts, enough):
    batches = list(in_batches(texts, enough, len))
    assert [text for batch in batches for text in batch] == texts
    for number, batch in enumerate(batches, start=1):
        assert batch
        assert sum(map(len, batch[:-1])) < enough
        assert sum(map(len, batch)) >= enough or number == len(batches)


def test_nothing_is_no_batch():
    assert list(in_batches([], 1, len)) == []
