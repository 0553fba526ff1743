"""What is held out: by each record's hash, or the tail where that would be too little."""

import pytest

from conjure.errors import DataError, UsageError
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.text.split import hold_out, hold_out_file, train_part_of_0_1
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


def test_what_0_1_trained_on_is_known(text_of):
    text = text_of(many_records(300))
    assert train_part_of_0_1(text, 0.1).digest == hold_out(text).train.digest
    assert train_part_of_0_1(text, 0).records == 300
    text = text_of(many_records(300) * 2)
    then = train_part_of_0_1(text, 0.1)
    assert then.digest == hold_out(text).train.digest
    assert then.digest != hold_out(text, dedup="drop").train.digest
    assert hold_out(text, dedup="weight").train.digest != hold_out(text).train.digest
    text = text_of(many_records(20))
    cut = len(text.ids) - round(len(text.ids) / 10)
    assert train_part_of_0_1(text, 0.1).read(0, cut).tolist() == text.ids[:cut].tolist()


def test_few_records_hold_out_a_tenth_of_them(text_of):
    split = hold_out(text_of(many_records(20)))
    assert (split.method, split.train.records, split.heldout.records) == ("records", 18, 2)


def test_too_few_records_hold_out_the_last_tenth_of_the_tokens(text_of):
    text = text_of(many_records(4))
    split = hold_out(text)
    total = len(text.ids)
    cut = total - round(total / 10)
    assert split.method == "tail"
    assert split.reason == "the last 10% of the tokens are held out: the text has only 4 records"
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


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_record_with_most_of_the_text_is_not_held_out(text_of, share):
    """Whatever its hash; else the crumbs would be trained on."""
    novel = " ".join(many_records(300))
    methods = set[str]()
    for number in range(30):
        text = text_of([f"{number}. {novel}", f"Blurb {number} tells what is in the book."])
        split = hold_out(text, share)
        assert len(split.train) > len(text.ids) / 2
        methods.add(split.method)
        if split.method == "tail" and "too little" in split.reason:
            methods.add("too little would be left")
    assert methods >= {"tail", "too little would be left"}


def test_one_line_written_again_and_again_cannot_be_held_out(text_of):
    split = hold_out(text_of(["The same old joke about a horse in a bar."] * 200))
    assert (split.method, split.heldout, split.train.records) == ("none", None, 200)
    assert split.reason == "everything that could be held out is also in the rest of the text"
    assert split.excluded == 20


def test_records_written_twice_are_on_one_side(text_of):
    split = hold_out(text_of(many_records(20) * 2))
    assert (split.method, split.heldout.records, split.heldout.groups) == ("records", 4, 2)
    assert not set(texts_in(split.train)) & set(texts_in(split.heldout))


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
    with pytest.raises(UsageError, match=f"holdout must be a fraction .*, not {fraction}"):
        hold_out(text_of(["a b"]), fraction)


def test_a_single_token_is_refused(text_of):
    text = text_of(["a"])
    text.ids, text.ends = text.ids[:1], text.ends - 1  # as of a conversation, which end-of-text does not end
    with pytest.raises(DataError, match="the text has 1 token;"):
        hold_out(text)


JOKE = "My neighbour bought a very loud parrot and now the parrot complains about my neighbour"


def told_again(number: int) -> list[str]:
    """Different records, each followed by one that tells it in other words."""
    words = JOKE.split()
    texts = []
    for index in range(number):
        own = [f"{word}{index}" for word in words]
        texts += [" ".join(own), " ".join(["Well,", *own[:-1], "landlord"])]
    return texts


def test_retellings_are_on_one_side(text_of):
    texts = told_again(100)
    split = hold_out(text_of(texts), groups=group_records(texts))
    assert split.heldout.records == 2 * split.heldout.groups
    assert 3 < split.heldout.groups < 30
    assert not set(split.train.labels.tolist()) & set(split.heldout.labels.tolist())


def test_added_records_move_no_group_but_those_they_join(text_of):
    texts = told_again(100)

    def held_out(texts):
        return set(texts_in(hold_out(text_of(texts), groups=group_records(texts)).heldout))

    more = [f"{text} once more" for text in texts[::3]] + many_records(50)
    assert held_out(texts + more) & set(texts) == held_out(texts)


def test_a_short_record_that_stands_in_one_trained_on_is_left_out(text_of):
    texts = [*many_records(100), *(f"a{n} b{n} c{n} d{n} e{n}" for n in range(100))]
    texts += [f"{text} and then some more words {n}" for n, text in enumerate(texts[100:])]
    split = hold_out(text_of(texts), groups=group_records(texts))
    train = " | ".join(texts_in(split.train))
    assert split.excluded > 3
    assert not [text for text in texts_in(split.heldout) if text in train]


@pytest.mark.parametrize(("dedup", "records"), [("keep", 4), ("drop", 1), ("weight", 4)])
def test_what_is_trained_on_of_records_that_say_the_same(text_of, dedup, records):
    texts = [*many_records(300), *(f"{JOKE}{'!' * n}" for n in range(4))]
    groups = group_records(texts)
    split = hold_out(text_of(texts), groups=groups, dedup=dedup)
    stream = split.heldout if groups.labels[-1] in split.heldout.labels else split.train
    assert stream is split.train, "choose another joke"
    members = split.train.labels == groups.labels[-1]
    assert members.sum() == records
    assert split.dropped == (3 if dedup == "drop" else 0)
    if dedup == "weight":
        assert split.train.weights[members].tolist() == [0.25] * 4
        assert split.train.weights.sum() == pytest.approx(split.train.groups)
    else:
        assert split.train.weights is None


def test_a_file_to_measure_on_but_for_what_is_trained_on(text_of):
    texts, validation = many_records(50), [f"Something else {n}" for n in range(10)]
    validation += [texts[3].upper(), texts[4] + "!"]
    split = hold_out_file(text_of(texts), text_of(validation), group_records(texts + validation))
    assert (split.method, split.train.records, split.heldout.records) == ("file", 50, 10)
    assert split.excluded == 2
    assert split.reason == (
        "the validation file is held out, except 2 of its 12 records that are also in the training text"
    )
    assert texts_in(split.heldout) == validation[:10]


def test_a_file_of_which_all_is_trained_on_measures_nothing(text_of):
    texts = many_records(50)
    split = hold_out_file(text_of(texts), text_of(texts[:5]), group_records(texts + texts[:5]))
    assert (split.method, split.heldout, split.excluded) == ("none", None, 5)
