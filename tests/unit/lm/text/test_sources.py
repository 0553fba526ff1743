"""What a person named, found: files, folders, columns; and one clear sentence for what cannot be."""

import gzip
import io
import os
import sys

import pytest

from conjure.errors import DataError, NotFoundError, UsageError
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.sources import find_sources, text_columns
from support.records import JOKES, write_records


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names, column=None):
    return [(source.name, source.kind, source.column) for source in find_sources(names, column=column)]


def test_a_folder_gives_its_readable_files_in_order(here):
    (here / "data/deep").mkdir(parents=True)
    (here / "data/.hidden").mkdir()
    for name in ("b.txt", "a.csv", "deep/c.TXT", ".hidden/d.txt", ".e.txt", "notes.md"):
        (here / "data" / name).write_text("ID,Joke\n1,two words\n")
    assert found("data") == [
        ("data/a.csv", "csv", "Joke"),
        ("data/b.txt", "txt", None),
        ("data/deep/c.TXT", "txt", None),
    ]


def test_a_file_named_twice_is_read_once_where_it_came_first(here):
    for name in ("a.txt", "b.txt"):
        (here / name).write_text("text")
    assert [name for name, _, _ in found("b.txt", ".", "./b.txt")] == ["b.txt", "a.txt"]


def test_the_only_text_column_is_taken_and_marked_as_a_guess(here):
    write_records(here / "jokes.csv", JOKES)
    (source,) = find_sources(["jokes.csv"])
    assert (source.column, source.guessed) == ("Joke", True)
    (source,) = find_sources(["jokes.csv"], column="ID")
    assert (source.column, source.guessed) == ("ID", False)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({"id": ["1", "2"], "joke": ["two words", "three more words"]}, ["joke"]),
        ({"kind": ["puns", "puns"], "joke": ["two words", "three more words"]}, ["joke"]),
        ({"id": ["1"], "when": ["2019-03-01 10:00"], "joke": ["two words"]}, ["joke"]),
        ({"link": ["https://a.b/c"], "name": ["Emma"]}, ["name"]),
        ({"setup": ["Who is there?"], "reply": ["It is me."]}, ["setup", "reply"]),
        ({"id": ["1"], "文": ["猫は寝ている。とても静か。"]}, ["文"]),
        ({"a": ["1"], "b": ["2.5"]}, []),
        ({"only": ["1"]}, ["only"]),
    ],
)
def test_which_columns_hold_text(samples, expected):
    assert text_columns(samples) == expected


def test_two_candidates_are_named_not_chosen_from(here):
    (here / "qa.csv").write_text("id,setup,reply\n1,Who is there?,It is me.\n")
    with pytest.raises(UsageError, match="'id', 'setup', 'reply'") as caught:
        find_sources(["qa.csv"])
    assert "qa.csv has several columns that could be the text" in str(caught.value)
    assert caught.value.fix == "column='setup'"


def test_a_wrong_column_is_answered_with_the_right_ones(here):
    write_records(here / "jokes.parquet", JOKES)
    with pytest.raises(
        UsageError, match=r"jokes\.parquet has no column 'joke'; its columns are 'ID', 'Joke'"
    ) as e:
        find_sources(["jokes.parquet"], column="joke")
    assert e.value.fix == "column='Joke'"


def test_a_column_of_a_text_file_is_a_contradiction(here):
    (here / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=r"column 'Joke' needs a table \(\.csv .*\); a\.txt is text"):
        find_sources(["a.txt"], column="Joke")


def test_a_missing_file_is_answered_with_the_nearest_name(here):
    (here / "jokes.csv").write_text("x")
    with pytest.raises(NotFoundError, match=r"joke\.csv does not exist; did you mean jokes\.csv\?"):
        find_sources(["joke.csv"])


def test_all_faults_are_reported_together(here):
    (here / "empty.txt").touch()
    with pytest.raises(
        NotFoundError, match=r"^a\.txt does not exist; b\.csv does not .*; empty\.txt is empty"
    ):
        find_sources(["a.txt", "b.csv", "empty.txt"])


def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(here):
    (here / "notes.md").write_text("text")
    with pytest.raises(
        UsageError,
        match=r"notes\.md has no supported .* \.txt \.csv \.tsv \.jsonl \.ndjson \.json \.parquet",
    ) as caught:
        find_sources(["notes.md"])
    assert caught.value.fix == "format='txt'"
    assert [source.kind for source in find_sources(["notes.md"], layout=ReadOptions(format="txt"))] == ["txt"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(here, name):
    (here / name).touch()
    with pytest.raises(DataError, match=rf"{name} is empty \(0 bytes\)"):
        find_sources([name])


def test_a_table_without_text_says_so(here):
    (here / "a.csv").write_text("ID,Joke\n")
    with pytest.raises(
        DataError, match=r"a\.csv has no text in its first rows; its columns are 'ID', 'Joke'"
    ):
        find_sources(["a.csv"])


def test_json_lines_without_an_object_say_what_is_needed(here):
    (here / "a.jsonl").write_text('["a"]\n{"Joke": \n')
    with pytest.raises(
        DataError, match=r"none of its first rows can be read: a \.jsonl contains one object per"
    ):
        find_sources(["a.jsonl"])
    assert found("a.jsonl", column="Joke") == [("a.jsonl", "jsonl", "Joke")]


def test_a_folder_without_readable_files_is_refused(here):
    (here / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder empty contains no file that ends in \.txt"):
        find_sources(["empty"])


def test_nothing_named_is_refused():
    with pytest.raises(UsageError, match="no data was given"):
        find_sources([])


def test_a_file_that_may_not_be_read_is_refused(here, monkeypatch):
    def refuse(*_):  # as root, who runs the tests in CI, every file can be read
        raise PermissionError(13, "Permission denied")

    (here / "a.txt").write_text("text")
    monkeypatch.setattr("conjure.lm.text.sources.open_regular", refuse)
    with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied"):
        find_sources(["a.txt"])


def test_standard_input_is_text(here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    (source,) = find_sources(["-"])
    assert (source.name, source.kind, source.path.read_bytes()) == ("standard input", "txt", b"one\ntwo\n")


def test_empty_standard_input_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DataError, match="standard input is empty"):
        find_sources(["-"])


def test_names_that_hold_spaces_and_quotes_are_quoted_in_the_fix(here):
    (here / "a.csv").write_text("id,Joke Text,It's\n1,two words,three more words\n")
    with pytest.raises(UsageError) as caught:
        find_sources(["a.csv"])
    assert caught.value.fix == "column='Joke Text'"
    with pytest.raises(UsageError) as caught:
        find_sources(["a.csv"], column="its")
    assert caught.value.fix == 'column="It\'s"'


@pytest.mark.slow
def test_a_table_of_ten_thousand_columns_is_refused_in_one_short_line(here):
    (here / "a.csv").write_text(",".join(f"column {n} {'x' * 90}" for n in range(10_000)) + "\n")
    with pytest.raises(UsageError, match=r"and 9,992 more") as caught:
        find_sources(["a.csv"], column="y")
    assert len(str(caught.value)) < 600


def test_a_pipe_is_refused_not_waited_for(here):
    os.mkfifo(here / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv cannot be read: it is not a regular file"):
        find_sources(["a.csv"])


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("a.csv.zip", "unzip a.csv.zip"),
        ("b c.csv.xz", "unxz 'b c.csv.xz'"),
        ("a.tar.gz", "tar xf a.tar.gz"),
        ("A.TAR.XZ", "tar xf A.TAR.XZ"),
        ("a.tgz", "tar xf a.tgz"),
        ("a.tar", "tar xf a.tar"),
    ],
)
def test_an_archive_is_answered_with_what_opens_it(here, name, fix):
    (here / name).write_bytes(b"PK")
    with pytest.raises(UsageError, match="is an archive") as caught:
        find_sources([name])
    assert caught.value.fix == fix


@pytest.mark.parametrize("name", ["jokes.xlsx", "Jokes.ODS"])
def test_a_spreadsheet_is_to_be_saved_as_csv(here, name):
    (here / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match=f"{name} is a spreadsheet, which cannot be read") as caught:
        find_sources([name])
    assert (caught.value.fix, caught.value.hint) == (None, "save it as CSV")


@pytest.mark.parametrize(
    ("content", "is_text"),
    [
        (b"PK\x03\x04", False),
        (b"%PDF-1.7", False),
        (b"\x7fELF\0", False),
        (gzip.compress(b"a\0b", mtime=0), False),
        (gzip.compress(b"plain", mtime=0), True),
        ("café".encode("utf-16"), True),
        (b"caf\xe9", True),
        (b"", True),
    ],
)
def test_only_what_may_be_text_is_said_to_be_readable_as_text(here, content, is_text):
    (here / "notes.doc").write_bytes(content)
    with pytest.raises(UsageError, match=r"notes\.doc has no supported file type") as caught:
        find_sources(["notes.doc"])
    assert caught.value.fix == ("format='txt'" if is_text else None)


def test_compressed_files_and_other_endings_are_known(here):
    with gzip.open(here / "a.csv.gz", "wt") as file:
        file.write("ID,Joke\n1,two words\n")
    (here / "b.ndjson").write_text('{"Joke": "two words"}\n')
    (here / "c.json").write_text('["two words"]')
    assert found("a.csv.gz", "b.ndjson", "c.json") == [
        ("a.csv.gz", "csv", "Joke"),
        ("b.ndjson", "jsonl", "Joke"),
        ("c.json", "json", "text"),
    ]


def test_a_damaged_compressed_file_is_one_sentence(here):
    (here / "a.csv.gz").write_bytes(gzip.compress(b"Joke\ntwo words\n" * 9)[:-12])
    with pytest.raises(DataError, match=r"a\.csv\.gz is a gzip file that is damaged or truncated"):
        find_sources(["a.csv.gz"])


def test_a_table_on_standard_input(here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ID,Joke\n1,two words\n")))
    (source,) = find_sources(["-"], layout=ReadOptions(format="csv"))
    assert (source.kind, source.column) == ("csv", "Joke")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"format": "xls"}, "format is 'xls'; allowed: txt, csv"),
        ({"delimiter": "ab"}, "delimiter must be one character"),
        ({"delimiter": '"'}, "must be one character"),
        ({"quoting": "some"}, "quoting is 'some'; allowed: auto, standard, none"),
        ({"encoding": "utf-9"}, "encoding must be one that Python knows"),
        ({"encoding": "rot13"}, "must be one that Python knows"),
        ({"encoding": "a\0b"}, "must be one that Python knows"),
    ],
)
def test_a_layout_that_cannot_be_followed_is_refused(said, wrong):
    with pytest.raises(UsageError) as caught:
        ReadOptions(**said)
    assert wrong in str(caught.value)


def test_data_in_the_home_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "jokes.txt").write_text("A joke.")
    monkeypatch.setenv("HOME", str(tmp_path))
    (source,) = find_sources(["~/jokes.txt"])
    assert (source.name, source.path) == ("~/jokes.txt", tmp_path / "jokes.txt")
    with pytest.raises(NotFoundError, match=r"^~/joke.txt does not exist"):
        find_sources(["~/joke.txt"])
