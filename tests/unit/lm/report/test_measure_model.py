"""What is read from the data for a report, and what a model does with it."""

from dataclasses import replace

import numpy as np
import pytest

from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.generation.generate import generate, stream
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import score
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.report.measure_model import (
    HeldOutTexts,
    _Work,
    excerpts,
    held_out_texts,
    measure_model,
    record_texts,
    some_records,
)
from conjure.lm.report.report_schema import ExtractedShare
from conjure.lm.text.records import read_records
from conjure.lm.text.split import hold_out
from conjure.lm.text.token_cache import tokenise
from conjure.lm.text.tokenizer import Tokenizer
from support.models import tiny_model, tiny_tokenizer
from support.records import many_records, write_records
from support.tokenizers_of_kinds import tokenizer_folder


@pytest.fixture
def split_of(tmp_path):
    def make(texts, fraction=0.1, **options):
        path = write_records(tmp_path / "texts.jsonl", texts)
        text = tokenise(read_records([path]), tiny_tokenizer(), cache=tmp_path / "cache", **options)
        return hold_out(text, fraction)

    return make


def test_record_texts_are_the_records(split_of):
    texts = [*many_records(100), "猫は寝ている。", "the last <|endoftext|> one"]
    split = split_of(texts)
    train, held_out = (
        list(record_texts(stream, tiny_tokenizer())) for stream in (split.train, split.heldout)
    )
    assert sorted(train + held_out) == sorted(texts)
    found = held_out_texts(split.heldout, tiny_tokenizer(), tokens=10**6)
    assert found.texts == held_out
    assert found.groups == split.heldout.labels.tolist()


def test_a_record_longer_than_a_reading_is_whole(split_of):
    novel = "猫 and a cat. " * 8_000  # a reading ends within a character, and so may the training part
    split = split_of([novel])
    assert split.method == "tail"
    (train,) = record_texts(split.train, tiny_tokenizer())
    assert len(split.train) > 1 << 16
    assert novel.startswith(train.removesuffix("\ufffd"))
    assert len(train) > 0.85 * len(novel)


def test_held_out_texts_are_few_where_there_are_many(split_of):
    split = split_of(many_records(400))
    all_texts = list(record_texts(split.heldout, tiny_tokenizer()))
    some = held_out_texts(split.heldout, tiny_tokenizer(), tokens=len(split.heldout) // 4)
    assert 0.15 < len(some.texts) / len(all_texts) < 0.35
    assert set(some.texts) < set(all_texts)
    assert sum(len(tiny_tokenizer().encode(text)) + 1 for text in some.texts) <= len(split.heldout) // 4
    more = held_out_texts(split.heldout, tiny_tokenizer(), tokens=len(split.heldout) // 2)
    assert set(some.texts) < set(more.texts)
    assert held_out_texts(None, tiny_tokenizer(), tokens=5).texts == ()


def test_a_long_held_out_record_is_cut(split_of):
    split = split_of(["one two three " * 500])
    found = held_out_texts(split.heldout, tiny_tokenizer(), tokens=50)
    (text,) = found.texts
    assert found.in_stretches
    assert len(tiny_tokenizer().encode(text)) <= 50


def test_excerpts_are_as_long_as_samples_beginnings_first():
    texts = ["a b c d e f", "g h"]
    tokens = len(tiny_tokenizer().encode(" b c"))
    pieces = excerpts(texts, tiny_tokenizer(), tokens=tokens, count=3)
    assert [piece.source for piece in pieces] == [0, 1, 0]
    pieces = [piece.text for piece in pieces]
    assert (texts[0].startswith(pieces[0]), texts[1].startswith(pieces[1])) == (True, True)
    assert pieces[0] + pieces[2] == texts[0][: len(pieces[0] + pieces[2])]
    assert excerpts([], tiny_tokenizer(), tokens=5, count=3) == []
    assert excerpts(["  "], tiny_tokenizer(), tokens=5, count=3) == []


def test_a_text_as_long_as_a_sample_has_no_more_pieces():
    whole, longer = "a b c", "a b c d e f"
    tokens = len(tiny_tokenizer().encode(whole))
    pieces = excerpts([whole, longer], tiny_tokenizer(), tokens=tokens, count=3)
    assert [piece.source for piece in pieces] == [0, 1, 1]


def test_observing_generates_and_scores():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    request = GenerationRequest(num_samples=3, max_new_tokens=5, seed=1)
    seen = measure_model("tiny", model, tokenizer, HeldOutTexts(["a cat", "the dog ticks"]), request)
    assert seen.name == "tiny"
    assert seen.samples == generate(model, tokenizer, request)
    assert [tally.total for tally in seen.scores] == pytest.approx(
        [score(TorchScorer(model), tokenizer, text).total for text in ("a cat", "the dog ticks")]
    )
    assert seen.windows.context == 32


@pytest.mark.parametrize(("records", "recited"), [(3, 3), (10, 5)])
def test_held_out_records_from_all_over_are_recited(monkeypatch, records, recited):
    monkeypatch.setattr("conjure.lm.report.measure_model.RECITED_RECORDS", 5)
    texts = [
        f"{number} times round the old house, and then it was found in the garden"
        for number in range(records)
    ]
    request = GenerationRequest(num_samples=1, max_new_tokens=2, seed=1)
    seen = measure_model("tiny", tiny_model(), tiny_tokenizer(), HeldOutTexts(texts), request)
    assert seen.extraction.held_out == ExtractedShare(recited, 0)
    assert seen.extraction.training is None


def test_scores_count_for_the_groups_of_their_texts_or_for_themselves():
    found = HeldOutTexts(["one", "uno"], [4, 4])
    assert list(found.units(2)) == [4, 4]
    assert list(found.units(3)) == [0, 1, 2]
    assert HeldOutTexts().records == ()


def test_progress_goes_from_none_to_all(split_of):
    split = split_of(many_records(100))
    trained_on = some_records(split.train, tiny_tokenizer(), 10)
    assert len(trained_on) == 10
    shares = []
    measure_model(
        "tiny",
        tiny_model(),
        tiny_tokenizer(),
        held_out_texts(split.heldout, tiny_tokenizer(), tokens=1000),
        GenerationRequest(num_samples=3, max_new_tokens=8, seed=1),
        trained_on=trained_on,
        on_progress=shares.append,
    )
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert shares[-1] > 0.5


def test_what_a_sample_that_ended_early_could_have_written_is_done():
    shares = []
    request = GenerationRequest(num_samples=1, max_new_tokens=8, seed=1)
    work = _Work(shares.append, request, ["x" * 128])
    for event in stream(TorchEngine(tiny_model()), tiny_tokenizer(), replace(request, max_new_tokens=5)):
        work.done_writing(event)
    assert len(shares) < 8
    assert shares[0] == pytest.approx(1 / 16)  # of 32 tokens written and 32 read
    assert shares[-1] == pytest.approx(8 / 16)


def test_writing_and_reading_count_by_what_they_cost():
    shares = []
    request = GenerationRequest(prompts=["a", "b", "c"], num_samples=2, max_new_tokens=8, seed=1)
    work = _Work(shares.append, request, ["x" * 128, "y" * 128])  # 192 tokens for writing, 64 for reading
    work.done_reading(64)
    assert shares == [pytest.approx(64 / 256)]
    work.done_reading(500)
    assert shares[-1] == 1
    _Work(None, request, []).done_reading(5)  # nobody wants to know


@pytest.mark.parametrize("allow_special", [False, True])
def test_what_is_scored_are_the_tokens_that_were_held_out(split_of, allow_special):
    split = split_of([f"{text}<|endoftext|>on" for text in many_records(60)], allow_special=allow_special)
    found = held_out_texts(split.heldout, tiny_tokenizer(), tokens=10**6, allow_special=allow_special)
    request = GenerationRequest(num_samples=1, max_new_tokens=2, seed=1)
    seen = measure_model("tiny", tiny_model(), tiny_tokenizer(), found, request)
    ends = split.heldout.records  # which are held out, but not scored
    assert sum(tally.tokens for tally in seen.scores) == len(split.heldout) - ends


@pytest.mark.parametrize("kind", ["llama-2", "gemma"])
def test_a_record_s_text_gives_its_tokens_again(tmp_path, kind):
    tokenizer = Tokenizer.from_folder(tokenizer_folder(tmp_path, kind))
    path = write_records(tmp_path / "texts.jsonl", many_records(50))
    text = tokenise(read_records([path]), tokenizer, cache=tmp_path / "cache")
    stream = hold_out(text, 0.0).train
    for number, record in enumerate(record_texts(stream, tokenizer)):
        ids = stream.ids[stream.place_of(number)].tolist()
        assert [id_ for id_ in ids if id_ not in (stream.start_id, tokenizer.end_of_text_id)] == (
            tokenizer.encode(record)
        )


def test_few_groups_are_scored_once_each_however_often_they_are_repeated(split_of):
    texts = [f"{name} went out. " * size for name, size in (("Ada", 3), ("Ben", 4), ("Cid", 400))]
    split = split_of([text for text in texts for _ in range(5)])
    stream = replace(split.train, labels=np.repeat(np.arange(3), 5)[: split.train.records])
    found = held_out_texts(stream, tiny_tokenizer(), tokens=10**6)
    assert found.in_stretches
    assert len(found.texts) == len(set(found.groups)) == len(set(found.texts))


@pytest.mark.parametrize(("groups", "in_stretches"), [(7, True), (8, False)])
def test_eight_groups_are_enough_to_count_texts(split_of, groups, in_stretches):
    stream = split_of([f"Number {number} went out to sea." for number in range(groups)], fraction=0.0).train
    stream = replace(stream, labels=np.arange(groups))
    found = held_out_texts(stream, tiny_tokenizer(), tokens=10**6)
    assert (len(found.texts), found.in_stretches) == (groups, in_stretches)


def test_some_records_are_from_all_over(split_of):
    stream = split_of(many_records(100)).train
    every = list(record_texts(stream, tiny_tokenizer()))
    some = some_records(stream, tiny_tokenizer(), 10)
    places = [every.index(text) for text in some]
    assert places == sorted(places)
    assert (places[0], len(set(places))) == (0, 10)
    assert places[-1] >= 0.8 * len(every)
    assert some_records(stream, tiny_tokenizer(), 10**6) == every
