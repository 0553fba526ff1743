"""Any texts, written as any kind of table, come back as the same records."""

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import read_records
from conjure.lm.text.table_reader import open_table
from support.records import KINDS, write_records

# Everything that tables have trouble with; a NUL or half a surrogate pair is no text.
TEXTS = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('"\n\r,;\t\\ ab'),
        min_size=1,
        max_size=20,
    ).filter(lambda text: text.replace("\ufeff", "").strip()),  # a byte order mark alone is no text
    min_size=1,
    max_size=8,
)


@given(TEXTS)
@example(["0\n\t"])
@example(["0\t\n"])
@settings(max_examples=60)
def test_every_kind_of_table_gives_the_same_records(texts):
    expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = write_records(Path(folder) / f"a.{kind}", texts)
            # A text with tabs and line ends looks like rows of its own, unless quotes are said to count.
            ambiguous = kind == "tsv" and any("\t" in text and "\n" in text for text in expected)
            layout = ReadOptions(quoting="standard" if ambiguous else "auto")
            records = read_records([path], column="Joke", layout=layout)
            assert list(records) == expected, kind
            assert records.bad_rows == {}


@given(st.text(st.sampled_from('"\n\r,ab é'), max_size=60))
def test_any_csv_is_read_to_its_end(content):
    """Every line is part of a row, a faulty row or blank: reading always ends, and nothing is skipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(b"a,b\n" + content.encode() + b"\n9,the last row\n")
        rows = list(open_table(path, "csv").rows("b"))
        assert [row.number for row in rows] == sorted({row.number for row in rows})
        assert (rows[-1].text or "").endswith("the last row") or rows[-1].fault is not None
