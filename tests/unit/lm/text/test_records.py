"""Records out of every kind of file: the same ones, and every row that is none counted with its reason."""

import gzip
import io
import subprocess
import sys

import pytest

from conjure.errors import DataError, UsageError
from conjure.lm.text.encodings import _CANDIDATES, guess_bytes
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import read_records
from conjure.lm.text.table_reader import Fault
from support.models import tiny_tokenizer
from support.records import JOKES, KINDS, ONE_LINERS, write_records


def bad(records):
    return {fault: (rows.count, rows.number) for fault, rows in records.bad_rows.items()}


@pytest.fixture
def text_file(tmp_path):
    def write(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_gives_the_same_records(tmp_path, kind):
    records = read_records([write_records(tmp_path / f"jokes.{kind}", JOKES)])
    assert list(records) == JOKES
    assert list(records) == JOKES  # as often as one likes
    assert records.bad_rows == {}


def test_lines_give_the_records_a_table_gives(tmp_path):
    lines = read_records([write_records(tmp_path / "a.txt", ONE_LINERS)], split="lines")
    table = read_records([write_records(tmp_path / "a.csv", ONE_LINERS)])
    assert list(lines) == list(table) == ONE_LINERS


def test_a_text_is_one_record_to_the_last_character(text_file):
    content = "  First line \n\n\nlast one, no line end "
    assert list(read_records([text_file(content)])) == [content]


@pytest.mark.parametrize("split", [None, "lines", "paragraphs"])
def test_line_ends_and_byte_order_marks_change_nothing(text_file, split):
    plain = list(read_records([text_file("one\ntwo\n\nthree\n")], split=split))
    assert list(read_records([text_file("one\r\ntwo\r\n\r\nthree\r\n")], split=split)) == plain
    assert list(read_records([text_file("one\rtwo\r\rthree\r")], split=split)) == plain
    assert list(read_records([text_file("\ufeffone\ntwo\n\nthree\n")], split=split)) == plain


def test_line_ends_in_values_are_made_one_kind_too(tmp_path):
    path = write_records(tmp_path / "a.jsonl", ["one\r\ntwo\rthree"])
    assert list(read_records([path])) == ["one\ntwo\nthree"]


def test_only_line_feeds_and_returns_end_a_line(text_file):
    content = "a\u2028b\x0bc\x0cd\x85e\x1cf"
    assert list(read_records([text_file(content)], split="lines")) == [content]


def test_blank_lines_are_empty_records_of_lines(text_file):
    records = read_records([text_file("one\n\n \ntwo")], split="lines")
    assert list(records) == ["one", "two"]
    assert bad(records) == {Fault.EMPTY: (2, 2)}


def test_paragraphs_are_what_stands_between_blank_lines(text_file):
    records = read_records([text_file("\n\none\n two\n \t\n\nthree")], split="paragraphs")
    assert list(records) == ["one\n two", "three"]
    assert records.bad_rows == {}


def test_bad_lines_are_counted_by_reason_with_the_first_place(text_file):
    records = read_records([text_file(b"good\ncaf\xe9\n\nnul\0\ncaf\xe9 2\nlast")], split="lines")
    assert list(records) == ["good", "last"]
    assert bad(records) == {Fault.WRONG_ENCODING: (2, 2), Fault.EMPTY: (1, 3), Fault.NUL: (1, 4)}
    name = records.sources[0].name
    assert (
        records.describe(records.bad_rows[Fault.WRONG_ENCODING])
        == f"2 × wrong encoding (first: {name}, line 2; decoded as cp1252: 'café')"
    )


@pytest.mark.parametrize("encoding", [*_CANDIDATES, guess_bytes("It came.\n".encode("utf-16-le")).encoding])
def test_an_encoding_that_is_guessed_is_known_to_iconv(encoding):
    done = subprocess.run(
        ["iconv", "-f", encoding, "-t", "utf-8"], input=b"", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_encoding_is_guessed_for_a_text_that_is_utf8_but_for_one_line(text_file):
    records = read_records([text_file("déjà vu\n".encode() * 9 + b"caf\xe9\n")], split="lines")
    assert len(list(records)) == 9
    said = records.describe(records.bad_rows[Fault.WRONG_ENCODING])
    assert said == f"1 × wrong encoding (first: {records.sources[0].name}, line 10)"


def test_characters_that_are_utf8_by_chance_do_not_hide_what_a_text_is_written_in():
    lines = ["山水", "秋水共长天一色", "山色", "潦水尽而寒潭清", "烟光凝而暮山紫", "明月几时有", "把酒问青天"]
    data = "\n".join(lines).encode("gb18030")
    assert data.splitlines()[0].decode()  # by chance
    guess = guess_bytes(data)
    assert (guess.encoding, guess.sample) == ("gb18030", lines[1])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_bad_values_are_faults_of_their_row(tmp_path, kind):
    records = read_records([write_records(tmp_path / f"a.{kind}", ["fine one", " ", "", "n\0l", "last one"])])
    assert list(records) == ["fine one", "last one"]
    assert {fault: rows.count for fault, rows in records.bad_rows.items()} == {Fault.EMPTY: 2, Fault.NUL: 1}


def test_half_a_surrogate_pair_in_json_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"Joke": "broken \\ud83d pair"}\n{"Joke": "whole \\ud83d\\ude00 pair"}\n')
    records = read_records([path])
    assert list(records) == ["whole 😀 pair"]
    assert bad(records) == {Fault.WRONG_ENCODING: (1, 1)}


def test_a_bad_byte_in_another_column_does_no_harm(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"who,Joke\nJos\xe9,fine one\n")
    assert list(read_records([path], column="Joke")) == ["fine one"]


def test_a_bad_text_among_good_ones_is_counted_as_a_whole(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 9)
    (tmp_path / "b.txt").write_text("fine")
    records = read_records([tmp_path])
    assert list(records) == ["fine"]
    assert bad(records) == {Fault.WRONG_ENCODING: (1, 0)}


@pytest.mark.parametrize(
    ("content", "split", "said", "advice"),
    [
        (
            b"caf\xe9",
            None,
            "text.txt contains no usable records: 1 × wrong encoding",
            "encoding='cp1252'",
        ),
        (
            "Привет, как дела?".encode("cp1251"),
            None,
            "decoded as cp1251: 'Привет, как",
            "encoding='cp1251'",
        ),
        ("It came.\n".encode("utf-16-le"), None, "1 × NUL character", "encoding='utf-16le'"),
        (b"a\0b", None, "1 × NUL character (first: ", None),
        (b"a\0b", None, "this may not be a text file", None),
        (b"caf\xe9\nth\xe9\n \n", "lines", "2 × wrong encoding (first: ", "encoding='cp1252'"),
        ("déjà vu\n".encode() * 9 + b"caf\xe9\n", None, "text.txt; line 10 is not UTF-8)", None),
        (b"plain\n" * 60_000 + b"caf\xe9\n", None, "text.txt; line 60,001 is not UTF-8)", None),
        (b" \n\t\n", None, "1 × empty", None),
        (b"\n\n", "paragraphs", "no usable records", None),
    ],
)
def test_nothing_usable_is_an_error_that_says_why(text_file, content, split, said, advice):
    with pytest.raises(DataError) as caught:
        list(read_records([text_file(content)], split=split))
    assert said in str(caught.value)
    assert advice in caught.value.fix if advice else caught.value.fix is None


def test_a_nul_late_in_a_long_text_spoils_it_before_any_of_it_is_used(text_file):
    records = read_records([text_file("word " * 500_000 + "\0")])
    with pytest.raises(DataError, match="NUL"):
        next(records.pieces())


def test_a_long_text_comes_in_pieces_with_the_ids_of_the_whole(text_file, monkeypatch):
    monkeypatch.setattr("conjure.lm.text.records._CHUNK", 50)
    content = "".join(f"Sentence {n}, isn't it?  \n" for n in range(60)) + "x" * 300
    pieces = list(read_records([text_file(content)]).pieces())
    assert len(pieces) > 20
    assert [piece.ends_record for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    ids = [id_ for piece in pieces for id_ in tiny_tokenizer().encode(piece.text)]
    assert ids == tiny_tokenizer().encode(content)


def test_a_line_of_ten_megabytes_is_one_record(text_file):
    line = "abcdefghi " * 1_000_000
    assert list(read_records([text_file(line)], split="lines")) == [line]
    assert list(read_records([text_file(line)])) == [line]


def test_one_record_is_enough(tmp_path):
    assert list(read_records([write_records(tmp_path / "a.csv", ["Just one."])])) == ["Just one."]


def test_files_are_read_in_the_order_given(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(read_records([tmp_path / "b.txt", tmp_path / "a.txt"])) == ["b", "a"]


def test_standard_input_can_be_read_twice(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    records = read_records(["-"], split="lines")
    assert list(records) == list(records) == ["one", "two"]


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="split is 'words'; allowed: lines, paragraphs"):
        read_records(["-"], split="words")


def test_a_split_of_tables_is_a_contradiction(tmp_path):
    path = write_records(tmp_path / "a.csv", JOKES)
    with pytest.raises(UsageError, match=r"split 'lines' is for text; .*a\.csv is a table"):
        read_records([path], split="lines")


class TestDigest:
    def test_it_goes_by_content_not_by_name(self, tmp_path):
        one = read_records([write_records(tmp_path / "a.csv", JOKES)])
        same = read_records([write_records(tmp_path / "b.csv", JOKES)])
        other = read_records([write_records(tmp_path / "c.csv", JOKES[1:])])
        assert one.digest == same.digest != other.digest

    def test_it_goes_by_the_way_records_are_cut(self, tmp_path):
        path = write_records(tmp_path / "a.txt", ONE_LINERS)
        digests = {read_records([path], split=split).digest for split in (None, "lines", "paragraphs")}
        table = write_records(tmp_path / "a.csv", JOKES)
        digests |= {read_records([table], column=column).digest for column in ("ID", "Joke")}
        assert len(digests) == 5


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json"])
    def test_a_byte_order_mark_decides_for_every_kind(self, tmp_path, encoding, name):
        contents = {
            ".txt": "naïve joke\n",
            ".csv": "ID,Joke\n1,naïve joke\n",
            ".tsv": "ID\tJoke\n1\tnaïve joke\n",
            ".jsonl": '{"Joke": "naïve joke"}\n',
            ".json": '[{"Joke": "naïve joke"}]',
        }
        path = tmp_path / name
        path.write_bytes(contents[path.suffix].encode(encoding))
        assert [text.strip() for text in read_records([path])] == ["naïve joke"]

    @pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16-le", "windows-1251"])
    def test_the_encoding_that_was_named_is_taken(self, tmp_path, encoding):
        path = tmp_path / "a.csv"
        path.write_bytes("ID,Шутка\n1,Часы идут.\n".encode(encoding))
        records = read_records([path], column="Шутка", layout=ReadOptions(encoding=encoding))
        assert list(records) == ["Часы идут."]

    def test_a_mark_goes_before_the_encoding_that_was_named(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("naïve", encoding="utf-8-sig")
        assert list(read_records([path], layout=ReadOptions(encoding="cp1251"))) == ["naïve"]

    @pytest.mark.parametrize("split", [None, "lines", "paragraphs"])
    def test_marks_of_joined_files_are_no_text(self, tmp_path, split):
        path = tmp_path / "a.txt"
        path.write_bytes("\ufeffone\n\ufeff\n\ufefftwo\n".encode())
        joined = "".join(read_records([path], split=split))
        assert "\ufeff" not in joined
        assert joined.replace("\n", "") == "onetwo"

    def test_marks_of_joined_tables_are_no_text(self, tmp_path):
        csv, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
        csv.write_text('\ufeffJoke\n\ufeff"one, two"\n\ufeffthree\n')
        lines.write_text('\ufeff{"Joke": "one, two"}\n\ufeff{"Joke": "\\ufeffthree"}\n')
        assert list(read_records([csv])) == list(read_records([lines])) == ["one, two", "three"]

    def test_text_that_is_wrong_in_utf16_spoils_its_record_only(self, tmp_path):
        path = tmp_path / "a.txt"
        wrong = b"\x00\xd8A\0\n\0"  # half of a surrogate pair
        path.write_bytes("\ufeffone\n".encode("utf-16-le") + wrong + "two\n".encode("utf-16-le"))
        records = read_records([path], split="lines")
        assert list(records) == ["one", "two"]
        assert bad(records) == {Fault.WRONG_ENCODING: (1, 2)}

    def test_a_compressed_text_is_its_text(self, tmp_path):
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
        assert list(read_records([tmp_path], split="lines")) == ["one", "two"]
