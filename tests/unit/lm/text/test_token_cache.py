"""Token ids on disk: what they are, when they are made anew, and what is said about them."""

import gzip

import numpy as np
import pytest

from conjure.errors import DataError, StoreError
from conjure.lm.text import token_cache
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.text.token_cache import describe, find_groups, summarise_lengths, tokenise
from conjure.lm.text.tokenizer import Tokenizer
from support.models import tiny_tokenizer
from support.records import JOKES, KINDS, many_records, write_records
from support.tokenizers_of_kinds import KINDS as TOKENIZER_KINDS
from support.tokenizers_of_kinds import tokenizer_folder


@pytest.fixture
def jokes(tmp_path):
    return read_records([write_records(tmp_path / "jokes.csv", JOKES)])


def expected_ids(texts, tokenizer):
    return [id_ for text in texts for id_ in [*tokenizer.encode(text), tokenizer.end_of_text_id]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_is_followed_by_end_of_text(tmp_path, kind):
    tokenizer = tiny_tokenizer()
    records = read_records([write_records(tmp_path / f"jokes.{kind}", JOKES)])
    text = tokenise(records, tokenizer, cache=tmp_path / "cache")
    assert text.ids.tolist() == expected_ids(JOKES, tokenizer)
    assert [tokenizer.decode(text.record(i)) for i in range(5)] == [f"{joke}<|endoftext|>" for joke in JOKES]
    assert text.lengths.tolist() == [len(tokenizer.encode(joke)) for joke in JOKES]


def test_a_marker_in_a_record_ends_nothing(tmp_path):
    records = read_records([write_records(tmp_path / "a.csv", ["one <|endoftext|> two"])])
    text = tokenise(records, tiny_tokenizer(), cache=tmp_path)
    assert (text.ids == tiny_tokenizer().end_of_text_id).sum() == 1


def test_a_long_record_in_many_batches_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("conjure.lm.text.records._CHUNK", 40)
    monkeypatch.setattr("conjure.lm.text.token_cache._BATCH_CHARACTERS", 64)
    content = "".join(f"Line {n}, it's long.\n" for n in range(100))
    (tmp_path / "a.txt").write_text(content)
    text = tokenise(read_records([tmp_path / "a.txt"]), tiny_tokenizer(), cache=tmp_path / "cache")
    assert text.ids.tolist() == expected_ids([content], tiny_tokenizer())
    monkeypatch.undo()
    whole = tokenise(read_records([tmp_path / "a.txt"]), tiny_tokenizer(), cache=tmp_path / "other")
    assert text.hashes.tolist() == whole.hashes.tolist()


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_a_long_record_is_written_in_pieces_with_any_tokenizer(tmp_path, monkeypatch, kind):
    """But for those that have no place where a text may be cut."""
    monkeypatch.setattr("conjure.lm.text.records._CHUNK", 40)
    monkeypatch.setattr("conjure.lm.text.token_cache._BATCH_CHARACTERS", 64)
    longest = 0
    encode = Tokenizer.encode_batch

    def measured(self, texts, **options):
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(Tokenizer, "encode_batch", measured)
    tokenizer = Tokenizer.from_folder(tokenizer_folder(tmp_path, kind))
    content = "".join(f"Line {n}, it's ▁ long, e\u0301  and  12 345.\n" for n in range(100))
    (tmp_path / "a.txt").write_text(content)
    text = tokenise(read_records([tmp_path / "a.txt"]), tokenizer, cache=tmp_path / "cache")
    assert (longest < 200) == (tokenizer.cut is not None)
    ids = [*tokenizer.start_ids, *tokenizer.encode(content), tokenizer.end_of_text_id]
    assert text.ids.tolist() == ids
    assert text.altered == (tokenizer.decode(tokenizer.encode(content)) != content)


def test_ids_beyond_16_bits_take_32():
    many = Tokenizer.train(["ab"], 300)
    many.__dict__["vocab_size"] = 70_000  # a real vocabulary of that size takes long to train
    assert token_cache._Writer(None, many, end_of_text=True, allow_special=False)._dtype == np.dtype("<u4")
    assert token_cache._Writer(
        None, tiny_tokenizer(), end_of_text=True, allow_special=False
    )._dtype == np.dtype("<u2")


class TestCache:
    @pytest.fixture
    def made(self, monkeypatch):
        """How often ids were made, as opposed to found."""
        count = []
        write = token_cache._Writer.write
        monkeypatch.setattr(token_cache._Writer, "write", lambda *args: (count.append(1), write(*args)))
        return count

    def test_ids_are_made_once(self, jokes, tmp_path, made):
        first = tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "cache")
        again = tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "cache")
        assert len(made) == 1
        assert again.ids.tolist() == first.ids.tolist()

    def test_an_edited_file_is_never_ignored(self, jokes, tmp_path, made):
        tokenise(jokes, tiny_tokenizer(), cache=tmp_path)
        edited = read_records([write_records(tmp_path / "jokes.csv", [*JOKES, "A new one."])])
        assert len(tokenise(edited, tiny_tokenizer(), cache=tmp_path).ends) == len(JOKES) + 1
        assert len(made) == 2

    def test_another_tokenizer_or_option_has_ids_of_its_own(self, jokes, tmp_path, made):
        tokenise(jokes, tiny_tokenizer(), cache=tmp_path)
        tokenise(jokes, Tokenizer.train(JOKES, 280), cache=tmp_path)
        tokenise(jokes, tiny_tokenizer(), cache=tmp_path, allow_special=True)
        assert len(made) == 3

    @pytest.mark.parametrize("name", ["ids", "ends", "hashes", "text.json"])
    def test_a_damaged_folder_is_made_again(self, jokes, tmp_path, made, name):
        first = tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "cache").ids.tolist()
        (path,) = (tmp_path / "cache").glob(f"*/{name}")
        path.write_bytes(path.read_bytes()[:-9])
        assert tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "cache").ids.tolist() == first
        assert len(made) == 2

    def test_what_an_interrupted_process_left_is_cleared(self, jokes, tmp_path):
        cache = tmp_path / "cache"
        tokenise(jokes, tiny_tokenizer(), cache=cache)
        (folder,) = (path for path in cache.iterdir() if path.is_dir())
        folder.rename(cache / f"{folder.name}.unfinished")
        tokenise(jokes, tiny_tokenizer(), cache=cache)
        assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}

    def test_bad_rows_are_remembered(self, tmp_path):
        records = read_records([write_records(tmp_path / "a.csv", ["fine one", " ", "last one"])])
        first = tokenise(records, tiny_tokenizer(), cache=tmp_path / "cache")
        again = tokenise(read_records([tmp_path / "a.csv"]), tiny_tokenizer(), cache=tmp_path / "cache")
        assert again.bad_rows == first.bad_rows == list(records.bad_rows.values())

    def test_nothing_usable_leaves_nothing_behind(self, tmp_path):
        (tmp_path / "a.txt").write_text(" ")
        with pytest.raises(DataError, match="no usable records"):
            tokenise(read_records([tmp_path / "a.txt"]), tiny_tokenizer(), cache=tmp_path / "cache")
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]

    def test_the_default_is_in_conjures_home(self, jokes, tmp_path, monkeypatch):
        monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
        tokenise(jokes, tiny_tokenizer())
        assert len(list((tmp_path / "home/datasets/tokens").glob("*/ids"))) == 1
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700

    def test_a_folder_that_cannot_be_written_is_one_sentence(self, jokes, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StoreError, match=r"token ids cannot be stored in .*file") as caught:
            tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "file")
        assert "CONJURE_HOME" in caught.value.hint

    def test_a_full_disk_is_one_sentence_and_leaves_nothing(self, jokes, tmp_path, monkeypatch):
        def fill(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(token_cache._Writer, "_write_batch", fill)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            tokenise(jokes, tiny_tokenizer(), cache=tmp_path / "cache")
        assert caught.value.hint.startswith("free space")
        assert not list((tmp_path / "cache").glob("*/ids"))

    def test_progress_ends_at_the_size_of_the_files(self, jokes, tmp_path):
        seen = []
        tokenise(
            jokes, tiny_tokenizer(), cache=tmp_path, progress=lambda done, total: seen.append((done, total))
        )
        assert seen == sorted(seen)
        assert seen[-1] == (jokes.size_bytes, jokes.size_bytes)

    def test_progress_of_a_compressed_file_goes_on_past_its_size(self, tmp_path, monkeypatch):
        monkeypatch.setattr(token_cache, "_BATCH_CHARACTERS", 2000)
        path = write_records(tmp_path / "jokes.csv", many_records(300))
        (tmp_path / "jokes.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        records = read_records([tmp_path / "jokes.csv.gz"])
        text = sum(map(len, records))
        for step in (
            lambda seen: tokenise(records, tiny_tokenizer(), cache=tmp_path, progress=seen),
            lambda seen: find_groups([records], cache=tmp_path, progress=seen),
        ):
            seen = []
            step(lambda done, total, seen=seen: seen.append((done, total)))
            assert seen == sorted(seen)
            assert any(done > total == records.size_bytes for done, total in seen[:-1])
            assert seen[-1] == (text, text)

    def test_records_are_compared_once_all_are_read(self, jokes, tmp_path, monkeypatch):
        told, build = [], token_cache.GroupBuilder.build
        monkeypatch.setattr(
            token_cache.GroupBuilder, "build", lambda self: told.append("build") or build(self)
        )
        find_groups([jokes], cache=tmp_path, progress=lambda *both: told.append(both))
        assert told == [(0, jokes.size_bytes), (jokes.size_bytes, jokes.size_bytes), "build"]


def test_the_facts_of_a_text(tmp_path):
    tokenizer = tiny_tokenizer()
    path = write_records(tmp_path / "a.csv", [*JOKES, "", " "])
    records = read_records([path])
    text, groups = tokenise(records, tokenizer, cache=tmp_path), find_groups([records], cache=tmp_path)
    facts = describe(records, text, groups)
    lengths = [len(tokenizer.encode(joke)) for joke in JOKES]
    assert facts.files == ({"name": str(path), "kind": "csv", "column": "Joke"},)
    assert (facts.records, facts.tokens) == (5, sum(lengths) + 5)
    assert (facts.distinct, facts.groups, facts.largest_group) == (5, 5, 1)
    assert facts.size_bytes == sum(len(joke.encode()) for joke in JOKES)
    assert facts.characters == sum(map(len, JOKES))
    assert (facts.lengths.shortest, facts.lengths.longest) == (min(lengths), max(lengths))
    assert facts.lengths.mean == sum(lengths) / 5
    assert facts.bad_row_count == 2
    assert facts.bad_rows == (f"2 × empty (first: {path}, line 8)",)
    assert facts.to_dict()["lengths"]["histogram"]["counts"]


def test_groups_are_found_once_and_kept(tmp_path):
    texts = ["One joke.", "Another one.", "one joke", *many_records(50)]
    path = write_records(tmp_path / "a.csv", texts)
    first, again = (find_groups([read_records([path])], cache=tmp_path / "cache") for _ in range(2))
    expected = group_records(texts)
    for found in (first, again):
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.neighbours.tolist() == expected.neighbours.tolist()
        assert (found.count, found.largest, found.distinct) == (expected.count, 2, 52)
    assert len(list((tmp_path / "cache").glob("*/labels"))) == 1


def test_groups_of_several_texts_are_numbered_one_after_the_other(tmp_path):
    paths = [write_records(tmp_path / name, ["One joke.", name]) for name in ("a.csv", "b.csv")]
    sets = [read_records([path]) for path in paths]
    assert find_groups(sets, cache=tmp_path / "cache").labels.tolist() == [0, 1, 0, 2]


def test_a_histogram_counts_every_record_once():
    lengths = [1, 5, 5, 6, 10, 11, 900]
    summary = summarise_lengths(lengths)
    assert sum(summary.histogram.counts) == len(lengths)
    assert summary.histogram.width == 100
    assert summarise_lengths([3]).histogram.counts == (0, 0, 1)
    assert summarise_lengths([1, 5, 5, 6, 10, 11]).histogram.counts == (1, 0, 0, 0, 2, 1, 0, 0, 0, 1, 1)
    many = summarise_lengths([len(text) for text in many_records(500)])
    assert sum(many.histogram.counts) == 500
    assert len(many.histogram.counts) <= 12


class TestSpecialTokensInTheText:
    def facts(self, tmp_path, content, **options):
        (tmp_path / "a.csv").write_text(content)
        records = read_records([tmp_path / "a.csv"])
        text = tokenise(records, tiny_tokenizer(), cache=tmp_path / "cache", **options)
        return text, describe(records, text, find_groups([records], cache=tmp_path / "cache"))

    def test_they_are_characters_counted_and_said(self, tmp_path):
        text, facts = self.facts(tmp_path, "Joke\none<|endoftext|>two <|endoftext|>\nthree\n")
        assert int((text.ids == tiny_tokenizer().end_of_text_id).sum()) == 2  # one after each record
        (remark,) = facts.remarks
        assert remark.startswith("<|endoftext|> occurs in the text 2 times and is read as plain text")

    def test_asked_for_they_are_the_tokens(self, tmp_path):
        text, facts = self.facts(tmp_path, "Joke\none<|endoftext|>two\n", allow_special=True)
        end = tiny_tokenizer().end_of_text_id
        expected = [*tiny_tokenizer().encode("one"), end, *tiny_tokenizer().encode("two"), end]
        assert text.record(0).tolist() == expected
        assert facts.remarks == ("<|endoftext|> occurs in the text once and is read as the token",)

    def test_text_without_them_is_not_remarked(self, tmp_path):
        assert self.facts(tmp_path, "Joke\nMy dog ate the clock.\n")[1].remarks == ()


@pytest.mark.parametrize(
    ("joke", "foreign"),
    [("Ελληνικά ανέκδοτα εδώ", True), ("7391 2854 6610 3327", False), ("The dog ate it.", False)],
)
def test_a_script_that_the_vocabulary_hardly_knows_is_said(tmp_path, joke, foreign):
    (tmp_path / "a.txt").write_text(joke)
    records = read_records([tmp_path / "a.txt"])
    text = tokenise(records, tiny_tokenizer(), cache=tmp_path / "cache")
    remarks = describe(records, text, find_groups([records], cache=tmp_path / "cache")).remarks
    assert any("has few tokens for this script" in remark for remark in remarks) == foreign
