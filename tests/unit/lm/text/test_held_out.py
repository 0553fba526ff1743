"""What is held out: by each record's hash, or the tail where that would be too little."""

import pytest

from conjure.errors import DataError, UsageError
from conjure.lm.text.held_out import hold_out
from conjure.lm.text.readers import read_records
from conjure.lm.text.token_cache import tokenise
from support.models import tiny_tokenizer
from support.records import many_records, write_records


@pytest.fixture
def text_of(tmp_path):
    def make(texts, **options):
        path = write_records(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", texts)
        return tokenise(read_records([path]), tiny_tokenizer(), cache=tmp_path / "cache", **options)

    return make


def texts_in(stream):
    return tiny_tokenizer().decode(stream.read(0, len(stream))).split("<|endoftext|>")[:-1]


def test_records_are_on_one_side_or_the_other(text_of):
    texts = many_records(300)
    split = hold_out(text_of(texts))
    train, heldout = texts_in(split.train), texts_in(split.heldout)
    assert (split.method, split.reason) == ("records", None)
    assert sorted(train + heldout) == sorted(texts)
    assert 15 < len(heldout) < 45
    assert (split.train.records, split.heldout.records) == (len(train), len(heldout))


def test_equal_records_are_on_the_same_side(text_of):
    split = hold_out(text_of(many_records(200) * 3))
    assert not set(texts_in(split.train)) & set(texts_in(split.heldout))


def test_a_larger_share_holds_out_the_same_ones_and_more(text_of):
    text = text_of(many_records(300))
    assert set(texts_in(hold_out(text, 0.1).heldout)) < set(texts_in(hold_out(text, 0.3).heldout))


def test_few_records_hold_out_the_last_tenth_of_the_tokens(text_of):
    text = text_of(many_records(20))
    split = hold_out(text)
    total = len(text.ids)
    cut = total - round(total / 10)
    assert split.method == "tail"
    assert split.reason.startswith("the last 10% of the tokens are held out: by records it would be ")
    assert split.reason.endswith(" of 20, and 8 are needed")
    assert split.train.read(0, len(split.train)).tolist() == text.ids[:cut].tolist()
    # One token of context, so that every token is a target of one side or the other.
    assert split.heldout.read(0, len(split.heldout)).tolist() == text.ids[cut - 1 :].tolist()


def test_one_record_works(text_of):
    split = hold_out(text_of(["Just one joke, but a good one."]))
    assert split.method == "tail"
    assert (split.train.records, split.heldout.records) == (1, 1)


def test_a_share_that_leaves_none_to_train_on_holds_out_the_tail(text_of):
    split = hold_out(text_of(many_records(30)), 0.999_999)
    assert (split.method, split.reason) == (
        "tail",
        "the last 10% of the tokens are held out: too little would be left to train on",
    )


@pytest.mark.parametrize(("texts", "tokens"), [(["a"], 2), (["ab"], 3)])
def test_the_shortest_texts(text_of, texts, tokens):
    split = hold_out(text_of(texts))
    assert len(split.train) == 2
    if tokens == 2:
        assert (split.method, split.heldout) == ("none", None)
        assert split.reason == "2 tokens are too few to hold any out"
    else:
        assert (split.method, len(split.heldout)) == ("tail", 2)


def test_nothing_is_held_out_when_asked(text_of):
    text = text_of(many_records(100))
    split = hold_out(text, 0)
    assert (split.method, split.heldout, len(split.train)) == ("none", None, len(text.ids))


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(text_of, fraction):
    with pytest.raises(UsageError, match=f"holdout is {fraction}; it is a share"):
        hold_out(text_of(["a b"]), fraction)


def test_a_single_token_is_refused(text_of):
    with pytest.raises(DataError, match="1 token long"):
        hold_out(text_of(["a"], end_of_text=False))
