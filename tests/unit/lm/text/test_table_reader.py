"""Tables row by row: what is a row, what is a fault, and that a fault spoils one row only."""

import csv
import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from conjure.errors import DataError
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.table_reader import ColumnSample, Fault, Row, looks_like_record, open_table
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
    assert table.samples()["Joke"].texts == JOKES


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
            (5, None, Fault.TOO_MANY_FIELDS),
        ]

    def test_empty_fields_at_the_end_of_every_row_are_padding(self, path):
        assert csv_rows(path, "a,b\n1,He left,,\n2,He came,,\n") == [
            (2, "He left", None),
            (3, "He came", None),
        ]
        assert csv_rows(path, "b,a\nHe left,1,\nHe came,2\n") == [
            (2, "He left", None),
            (3, "He came", None),
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

    def test_one_column_is_never_cut(self, path):
        content = 'joke\nI came; I saw.\n"Well, hello; there"\nHe left;\n"Hi," he said; "bye".\na\tb|c,\n'
        assert csv_rows(path, content, column="joke") == [
            (2, "I came; I saw.", None),
            (3, "Well, hello; there", None),
            (4, "He left;", None),
            (5, '"Hi," he said; "bye".', None),
            (6, "a\tb|c,", None),
        ]

    @pytest.mark.parametrize(
        ("content", "column", "expected"),
        [
            (
                "id;joke, short\n1;I bought it.\n2;I sold it, twice.\n",
                "joke, short",
                ["I bought it.", "I sold it, twice."],
            ),
            ("id|joke\n1|I came, I saw; I left.\n2|No.\n", "joke", ["I came, I saw; I left.", "No."]),
            ("id\tjoke, short\n1\tyes, no\n2\tno\n", "joke, short", ["yes, no", "no"]),
            ("joke, short\nI came, I saw, I left.\nNo.\nYes; no.\n", "joke, short",
             ["I came, I saw, I left.", "No.", "Yes; no."]),
            ('"joke; long, short"\na;b\nc,d\n', "joke; long, short", ["a;b", "c,d"]),
            ("price;joke\n2,50;It is, so to say, cheap.\n3,10;No.\n", "joke",
             ["It is, so to say, cheap.", "No."]),
            ('n;joke\n1;"a;b\nc, d"\n2;e\n', "joke", ["a;b\nc, d", "e"]),
        ],
    )  # fmt: skip
    def test_many_rows_decide_what_separates_outside_quotes(self, path, content, column, expected):
        assert [text for _, text, _ in csv_rows(path, content, column)] == expected

    @pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;;\n", "\ufeffsep=;\n"])
    def test_excels_separator_line_is_followed_and_no_row(self, path, first):
        rows = csv_rows(path, f"{first}ID;Joke\n1;One, two.\n2;Three.\n", "Joke")
        assert rows == [(3, "One, two.", None), (4, "Three.", None)]

    def test_quotes_in_a_tsv_join_lines_only_where_that_makes_a_row(self, path):
        plain = 'a\tb\n1\t"He said\n2\tno quote\n3\tbye" and left\n4\t"all" of it\n5\t"whole"\n'
        assert csv_rows(path, plain, kind="tsv") == [
            (2, '"He said', None),
            (3, "no quote", None),
            (4, 'bye" and left', None),
            (5, '"all" of it', None),
            (6, "whole", None),
        ]
        other_line_ends = 'a\tb\n"Title"\tfirst\u2028second\x0bthird\n'
        assert csv_rows(path, other_line_ends, kind="tsv") == [(2, "first\u2028second\x0bthird", None)]
        quoted = 'b\ta\n"two\nlines"\t1\nthree\t2\n'
        assert csv_rows(path, quoted, kind="tsv") == [(2, "two\nlines", None), (4, "three", None)]

    def test_one_column_of_a_tsv_with_an_open_quote_is_read_once(self, path, monkeypatch):
        readers, reader = [], csv.reader
        monkeypatch.setattr(csv, "reader", lambda *args, **kw: readers.append(1) or reader(*args, **kw))
        lines = ["b", '"two', 'lines"', '"Open', '"Well," she said', *["plain"] * 500]
        rows = csv_rows(path, "\n".join(lines), kind="tsv")
        assert [text for _, text, _ in rows] == ["two\nlines", *lines[3:]]
        assert len(readers) < 20  # not one for every line after a quote

    def test_a_quoted_field_of_a_tsv_may_be_far_longer_than_the_librarys_limit(self, path):
        csv.field_size_limit(1 << 17)  # as in a process that has read no CSV yet
        long = "word " * 40_000
        assert csv_rows(path, f'a\tb\n1\t"{long}"\n', kind="tsv") == [(2, long, None)]

    def test_what_is_said_about_a_table_is_followed(self, path):
        def rows(content, column, kind="csv", **said):
            path.write_text(content)
            return [row.text for row in open_table(path, kind, ReadOptions(**said)).rows(column)]

        assert rows("1,I came\n2,I saw\n", "2", header=False) == ["I came", "I saw"]
        assert rows("a:b\n1:x, y\n", "b", delimiter=":") == ["x, y"]
        assert rows('a,b\n1,"x\n2,y"\n', "b", quoting="none") == ['"x', 'y"']
        assert rows('a\tb\n1\t"x\n2\ty"\n', "b", "tsv", quoting="standard") == ["x\n2\ty"]
        assert rows("a\tb\n1\tx;y\n", "a\tb", delimiter=";") == [None]  # more fields than columns
        assert rows("a,b\n1,x\ty\n", "b", "tsv", delimiter=",") == ["x\ty"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("I came, I saw, I left.\nI went home again.\n", "looks like a record"),
            ("1,I came\n2,I saw\n", "looks like a record"),
            ("Why did the chicken cross the road?\nTo get there.\n", "looks like a record"),
            ("joke, short\nNo.\nYes.\nYes; no.\n", "it is read as one column"),
            ("id,joke\n1,I came, I saw.\n", None),
            ("2019,2020\nlow,high\n", None),
        ],
    )
    def test_what_may_be_otherwise_is_said(self, path, content, said):
        path.write_text(content)
        remarks = open_table(path, "csv").remarks
        assert (said in remarks[0]) if said else not remarks

    def test_spaces_before_quoted_fields_are_no_text(self, path):
        spaced = 'id, joke\n1, "I bought a clock, and sold it."\n2, "He said ""no""\nand left."\n3, plain\n'
        assert [text for _, text, _ in csv_rows(path, spaced, "joke")] == [
            "I bought a clock, and sold it.",
            'He said "no"\nand left.',
            "plain",
        ]
        named = '"id", "joke"\n"1", "a, b"\n"2", "c"\n'
        assert [text for _, text, _ in csv_rows(path, named, "joke")] == ["a, b", "c"]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ('a,b\n1, "x"\n2,"y"\n', [' "x"', "y"]),  # not before every quote
            ("a,b\n1, x\n2, y\n", [" x", " y"]),
            ('b\nHe said, "Hi" and left.\n', ['He said, "Hi" and left.']),
            ('a;b\n1; He said; "Hi" and left.\n2; "Hi" he said.\n', [None, ' "Hi" he said.']),
        ],
    )
    def test_other_spaces_are_text(self, path, content, expected):
        assert [text for _, text, _ in csv_rows(path, content)] == expected

    def test_prose_with_quotations_is_not_cut_at_its_commas(self, path):
        lines = ["I came, I saw.", "No.", 'He said, "No."', "Yes.", "It rained."]
        assert [
            text for _, text, _ in csv_rows(path, "\n".join(["joke, short", *lines]), "joke, short")
        ] == lines

    def test_quotes_may_be_escaped_with_backslashes(self, path):
        content = (
            'a,b\n1,"She said \\"hi, you\\" to me."\n2,"C:\\temp\\\\"\n'
            '3,5 ft 6\\" tall\n4,"two\nlines \\"so\\""\n'
        )
        texts = ['She said "hi, you" to me.', "C:\\temp\\", '5 ft 6" tall', 'two\nlines "so"']
        assert [text for _, text, _ in csv_rows(path, content)] == texts
        assert "escaped with backslashes" in open_table(path, "csv").remarks[0]
        standard = open_table(path, "csv", ReadOptions(quoting="standard"))
        assert next(row.fault for row in standard.rows("b")) is Fault.STRAY_QUOTE
        assert not standard.remarks
        alone = 'b\n"She said \\"hi\\"; and left."\n"No, \\"no\\"."\n'
        assert [text for _, text, _ in csv_rows(path, alone)] == ['She said "hi"; and left.', 'No, "no".']

    def test_backslashes_are_text_where_quotes_are_written_twice(self, path):
        content = 'a,b\n1,"C:\\temp\\"\n2,"He said ""no\\"""\n3,"x" y\n'
        assert csv_rows(path, content) == [
            (2, "C:\\temp\\", None),
            (3, 'He said "no\\"', None),
            (4, None, Fault.STRAY_QUOTE),
        ]

    def test_one_row_does_not_decide_that_backslashes_of_all_others_are_escapes(self, path):
        latex = [rf"We have $a_{n} \\ b_{n}$, and so on." for n in range(20)]
        content = "a,b\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(latex))
        assert csv_rows(path, content + '20,"He said \\"no\\"."\n') == [
            *((number, text, None) for number, text in enumerate(latex, start=2)),
            (22, None, Fault.STRAY_QUOTE),
        ]
        assert not open_table(path, "csv").remarks

    def test_a_text_of_a_record_that_may_be_cut_is_told(self, path):
        path.write_text("prompt,completion\nName two fruits:,apple,\nWhere?,Here.\n")
        assert [(record, fault) for _, record, fault in open_table(path, "csv").records()] == [
            ({"prompt": "Name two fruits:", "completion": Fault.TOO_MANY_FIELDS}, None),
            ({"prompt": "Where?", "completion": "Here."}, None),
        ]
        path.write_text("prompt,completion\nWhy?,So.,\nWhere?,Here.,\n")
        texts = [list(record.values()) for _, record, _ in open_table(path, "csv").records()]
        assert texts == [["Why?", "So."], ["Where?", "Here."]]

    def test_a_row_without_the_padding_of_all_others_does_not_spoil_them(self, path):
        rows = [f"{number},He left," for number in range(150)]
        rows[70] = "70,He left"
        assert {text for _, text, _ in csv_rows(path, "\n".join(["a,b", *rows]))} == {"He left"}
        rows[::4] = [row.removesuffix(",") for row in rows[::4]]  # as verse may be written
        assert sum(text is None for _, text, _ in csv_rows(path, "\n".join(["a,b", *rows]))) == 111


class TestJson:
    def table(self, path, content):
        path.write_text(content)
        return open_table(path, "json")

    def test_an_array_of_objects_or_of_texts(self, path):
        table = self.table(
            path, '\ufeff [ {"b": "one", "n": 1}, {"b": 3},\n\n7, {"b": "x", "b": "y"},"t"] \n'
        )
        assert list(table.samples()) == ["b", "n", "text"]
        assert list(table.rows("b")) == [
            Row(1, "one"),
            Row(2, None, Fault.NOT_TEXT),
            Row(3, None, Fault.NOT_AN_OBJECT),
            Row(4, None, Fault.NAME_TWICE),
            Row(5, None, Fault.MISSING_COLUMN),
        ]
        assert list(table.rows("text"))[-1] == Row(5, "t")

    @pytest.mark.parametrize(
        "content", ['{"b": "x"}\n{"b": "y"}', '{\n"b": "x"\n}\n{"b":\n"y"}', '["x","y"]']
    )
    def test_other_ways_to_write_records(self, path, content):
        table = self.table(path, content)
        (column,) = table.samples()
        assert [row.text for row in table.rows(column)] == ["x", "y"]

    def test_values_across_every_edge_of_what_is_read_at_once(self, path, monkeypatch):
        values = [{"b": "é\n" * n, "n": 10**n} for n in range(40)] + [{"b": "last"}]
        for size in (1, 7, 64):
            monkeypatch.setattr("conjure.lm.text.table_reader._JSON_CHUNK", size)
            table = self.table(path, json.dumps(values, ensure_ascii=False))
            assert [row.text for row in table.rows("b")] == [value["b"] for value in values]

    @pytest.mark.parametrize(
        "content",
        ['[{"b": "x"}, {"b": ', '[{"b": "x"} {"b": 1}]', '[{"b": "x"}] x', "[", '{"b": "x"} ]', "[" * 60_000],
    )
    def test_what_breaks_off_is_refused_never_cut(self, path, content):
        with pytest.raises(DataError, match="is damaged or truncated: record"):
            list(self.table(path, content).rows("b"))

    def test_a_number_longer_than_python_reads_is_only_no_text(self, path):
        table = self.table(path, '[{"b": ' + "9" * 9000 + '}, {"b": "x"}]')
        assert [(row.text, row.fault) for row in table.rows("b")] == [(None, Fault.NOT_TEXT), ("x", None)]

    def test_records_inside_an_object_are_pointed_at(self, path):
        with pytest.raises(
            DataError, match="contains one object, with its records under 'my data'"
        ) as caught:
            self.table(path, '{"version": 1, "my data": [{"b": "x"}]}').samples()
        assert caught.value.fix.startswith("""jq '.["my data"]' """)
        packed = path.with_name("packed.json.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(DataError) as caught:
            open_table(packed, "json", name="./packed.json.gz").samples()
        assert caught.value.fix == "gzip -dc ./packed.json.gz | jq '.[\"my data\"]' > records-packed.json"
        with pytest.raises(DataError, match=r"^standard input contains one object") as caught:
            open_table(path, "json", name="standard input").samples()
        assert caught.value.fix is None
        one = self.table(path, '{"b": "x", "tags": ["a"]}')
        assert [row.text for row in one.rows("b")] == ["x"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (
                '{"v": {"n": 1}, "my \\"data\\"": [{"b": "%s"}], "w": 1}',
                """with its records under 'my "data"'""",
            ),
            ('{"v": 1, "b": "%s"}', "record 1 is longer than 32 million characters"),
            ('[{"b": "x"}, {"b": [{"c": "%s"}]}]', "record 2 is longer than 32 million characters"),
            ('{"v": 1, "b": nothing, "c": "%s"}', "is damaged or truncated: record 1"),
        ],
    )
    def test_a_value_too_long_to_be_read_is_not_called_damaged(self, path, monkeypatch, content, said):
        monkeypatch.setattr("conjure.lm.text.table_reader._JSON_CHUNK", 8)
        monkeypatch.setattr("conjure.lm.text.table_reader._FIELD_LIMIT", 100)
        with pytest.raises(DataError) as caught:
            list(self.table(path, content % ("x" * 2000)).rows("b"))
        assert said in str(caught.value)
        assert (caught.value.fix is not None) == ("its records under" in said)

    def test_one_name_twice_inside_a_record_that_is_not_wholly_read_yet(self, path, monkeypatch):
        content = '[{"a": {"c": 1, "c": 2}, "b": "%s"}, {"b": "y"}]' % ("x" * 100)
        for size in range(1, 64):
            monkeypatch.setattr("conjure.lm.text.table_reader._JSON_CHUNK", size)
            found = [(row.text, row.fault) for row in self.table(path, content).rows("b")]
            assert found == [(None, Fault.NAME_TWICE), ("y", None)]


class TestJsonLines:
    def test_one_name_twice_is_a_fault_not_the_last_value(self, path):
        path.write_text('{"b": "x", "b": "y"}\n{"b": "z"}\n')
        assert list(open_table(path, "jsonl").rows("b")) == [Row(1, None, Fault.NAME_TWICE), Row(2, "z")]

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
        assert open_table(path, "jsonl").samples() == {
            "a": ColumnSample([], holds_text=False),
            "b": ColumnSample(["x"], holds_text=True, is_common=False),
            "c": ColumnSample([], holds_text=False, is_common=False),
        }

    def test_a_column_holds_what_most_of_its_values_are(self, path):
        rows = [{"a": "x", "b": []}, {"a": None, "b": ["y"]}, {"a": "", "b": "z"}, {"c": 1}]
        path.write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
        assert open_table(path, "jsonl").samples() == {
            "a": ColumnSample(["x"], holds_text=True),
            "b": ColumnSample(["z"], holds_text=False),
            "c": ColumnSample([], holds_text=False, is_common=False),
        }


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
            **dict.fromkeys(("plain", "large", "coded"), ColumnSample(["x", "y"], holds_text=True)),
            "number": ColumnSample([], holds_text=False),
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

    def test_two_columns_of_one_name_are_refused(self, path):
        columns = [pyarrow.array(["x"]), pyarrow.array(["y"])]
        parquet.write_table(pyarrow.Table.from_arrays(columns, names=["b", "b"]), path)
        with pytest.raises(DataError, match="has two columns named 'b'"):
            open_table(path, "parquet")

    def test_a_name_with_a_dot_beside_a_nested_column(self, path):
        nested = pyarrow.array([{"b": 1}])
        columns = {"a": nested, "a.b": pyarrow.array(["text"]), "c.d": pyarrow.array(["more"])}
        parquet.write_table(pyarrow.table(columns), path)
        table = open_table(path, "parquet")
        assert [list(table.rows(name)) for name in ("a.b", "c.d")] == [[Row(1, "text")], [Row(1, "more")]]
        assert list(table.rows("a")) == [Row(1, None, Fault.NOT_TEXT)]

    def test_a_column_whose_name_is_no_utf8_is_refused(self, tmp_path):
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table({"Joke": ["one"]}), path)
        path.write_bytes(path.read_bytes().replace(b"Joke", b"J\xd8ke"))
        with pytest.raises(DataError, match="is not a Parquet file, or is damaged"):
            open_table(path, "parquet")

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


def test_one_long_word_is_looked_at_once():
    # From each of its letters anew, this would take many minutes.
    assert not looks_like_record(["ACGT" * 75_000], {})
    assert looks_like_record(["ACGT" * 75_000 + " and six more words after it"], {})
