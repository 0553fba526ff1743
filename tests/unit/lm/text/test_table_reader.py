"""Tables row by row: what is a row, what is a fault, and that a fault spoils one row only."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from conjure.errors import DataError
from conjure.lm.text.table_reader import Fault, Row, open_table
from support.records import JOKES, KINDS, write_records


def csv_rows(path, content, column="b", kind="csv"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.number, row.text, row.fault) for row in open_table(path, kind).rows(column)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_column_as_it_was_written(tmp_path, kind):
    table = open_table(write_records(tmp_path / f"jokes.{kind}", JOKES), kind)
    assert [row.text for row in table.rows("Joke")] == JOKES
    assert list(table.samples()) == ["ID", "Joke"]
    assert table.samples()["Joke"] == JOKES


class TestSeparated:
    def test_line_numbers_count_lines_not_rows(self, path):
        rows = csv_rows(path, 'a,b\n1,"two\nlines"\n\n2,next\n')
        assert rows == [(2, "two\nlines", None), (5, "next", None)]

    def test_line_ends_of_every_kind(self, path):
        expected = ["x", "y\nz", "w"]
        for end in ("\n", "\r\n", "\r"):
            content = f'a,b{end}1,x{end}2,"y{end}z"{end}3,w{end}'
            assert [text for _, text, _ in csv_rows(path, content)] == expected

    def test_a_byte_order_mark_is_no_part_of_a_name(self, path):
        assert csv_rows(path, b"\xef\xbb\xbfb,a\nx,1\n") == [(2, "x", None)]

    @pytest.mark.parametrize("delimiter", [";", "\t"])
    def test_a_csv_without_commas_in_its_header(self, path, delimiter):
        content = f"a{delimiter}b\n1{delimiter}one, two\n"
        assert csv_rows(path, content) == [(2, "one, two", None)]

    def test_a_tsv_may_hold_commas_anywhere(self, path):
        assert csv_rows(path, "a,x\tb\n1\tone, two\n", kind="tsv") == [(2, "one, two", None)]

    def test_short_rows_lack_the_column_and_long_ones_would_lose_text(self, path):
        rows = csv_rows(path, "a,b\n1\n2,yes\n3,cut, off\n4,fine,,\n")
        assert rows == [
            (2, None, Fault.MISSING_COLUMN),
            (3, "yes", None),
            (4, None, Fault.TOO_MANY_FIELDS),
            (5, "fine", None),
        ]

    def test_an_unclosed_quote_spoils_its_row_only(self, path):
        rows = csv_rows(path, 'a,b\n1,"good"\n2,"open\n3,"fine"\n4,plain\n')
        assert rows == [
            (2, "good", None),
            (3, None, Fault.UNCLOSED_QUOTE),
            (4, "fine", None),
            (5, "plain", None),
        ]

    def test_an_unclosed_quote_that_reaches_the_end_spoils_its_row_only(self, path):
        rows = csv_rows(path, 'a,b\n1,"open\n2,two\n3,three\n')
        assert rows == [(2, None, Fault.UNCLOSED_QUOTE), (3, "two", None), (4, "three", None)]
        assert csv_rows(path, 'a,b\n1,x\n2,"last') == [(2, "x", None), (3, None, Fault.UNCLOSED_QUOTE)]

    def test_quotes_inside_quotes_must_be_doubled(self, path):
        rows = csv_rows(path, 'a,b\n1,"he said "hi" twice"\n2,5 ft 6" tall\n3,"""so"""\n')
        assert rows == [(2, None, Fault.STRAY_QUOTE), (3, '5 ft 6" tall', None), (4, '"so"', None)]

    def test_a_field_may_be_far_longer_than_the_libraries_limit(self, path):
        assert csv_rows(path, f'a,b\n1,"{"long " * 200_000}"\n')[0][1] == "long " * 200_000

    def test_bytes_that_are_not_utf8_stand_as_surrogates(self, path):
        assert csv_rows(path, b"a,b\n1,caf\xe9\n2,tea\n") == [(2, "caf\udce9", None), (3, "tea", None)]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('a,"b\n1,x\n', "line 1: unclosed quote where the columns are named"),
            ("b,b\n1,x\n", "has two columns named 'b'"),
        ],
    )
    def test_a_header_that_cannot_be_used_is_refused(self, path, content, said):
        with pytest.raises(DataError, match=said):
            csv_rows(path, content)

    def test_nameless_columns_are_no_choice(self, path):
        path.write_text("a,b,,\n1,x,,\n")
        assert list(open_table(path, "csv").samples()) == ["a", "b"]


class TestJsonLines:
    def test_every_fault_has_its_name_and_line(self, path):
        lines = ['{"b": "one"}', "", '{"b": ', '["b"]', '{"c": "x"}', '{"b": 3}', '{"b": null}', "[" * 50_000]
        path.write_text("\n".join(lines) + '\n{"b": "last"}')
        assert list(open_table(path, "jsonl").rows("b")) == [
            Row(1, "one"),
            Row(3, None, Fault.BROKEN_JSON),
            Row(4, None, Fault.NOT_AN_OBJECT),
            Row(5, None, Fault.MISSING_COLUMN),
            Row(6, None, Fault.NOT_TEXT),
            Row(7, None, Fault.EMPTY),
            Row(8, None, Fault.BROKEN_JSON),
            Row(9, "last"),
        ]

    def test_names_come_from_all_the_first_objects(self, path):
        path.write_text("\n".join(json.dumps(row) for row in ({"a": 1}, {"b": "x"}, {"a": 2, "c": " "})))
        assert open_table(path, "jsonl").samples() == {"a": [], "b": ["x"], "c": []}


class TestParquet:
    def test_nulls_numbers_and_kinds_of_text(self, path):
        words = pyarrow.array(["x", None, "y"])
        table = pyarrow.table(
            {
                "plain": words,
                "large": words.cast(pyarrow.large_string()),
                "coded": words.dictionary_encode(),
                "number": pyarrow.array([1, 2, 3]),
            }
        )
        parquet.write_table(table, path)
        opened = open_table(path, "parquet")
        assert opened.samples() == {
            "plain": ["x", "y"],
            "large": ["x", "y"],
            "coded": ["x", "y"],
            "number": [],
        }
        for column in ("plain", "large", "coded"):
            assert list(opened.rows(column)) == [Row(1, "x"), Row(2, None, Fault.EMPTY), Row(3, "y")]
        assert {row.fault for row in opened.rows("number")} == {Fault.NOT_TEXT}

    def test_text_that_is_not_utf8_spoils_its_row_only(self, path):
        data = pyarrow.array([b"fine", b"caf\xe9"]).view(pyarrow.string())
        parquet.write_table(pyarrow.table({"b": data}), path)
        assert list(open_table(path, "parquet").rows("b")) == [
            Row(1, "fine"),
            Row(2, None, Fault.WRONG_ENCODING),
        ]

    @pytest.mark.parametrize("content", [b"not parquet at all", b"PAR1"])
    def test_another_kind_of_file_is_refused(self, path, content):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a Parquet file, or is damaged"):
            open_table(path, "parquet")

    def test_a_damaged_page_is_refused(self, path):
        write_records(path.with_suffix(".parquet"), [f"{n} {n * n}" for n in range(1000)]).rename(path)
        data = bytearray(path.read_bytes())
        data[4:400] = bytes(396)
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            list(open_table(path, "parquet").rows("ID"))
