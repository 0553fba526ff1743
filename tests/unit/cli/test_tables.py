import sys

import click
import pytest

from conjure.cli.render import cut
from conjure.cli.tables import Cell, Column, drawn_table, one_line, show_facts, show_table

COLUMNS = [Column("RUN", right=True), Column("STATUS"), Column("COMMAND", shrinks=True)]


def test_plain_tables_are_aligned_and_whole(capsys):
    long = "x" * 500
    show_table(COLUMNS, [("1", Cell("complete", "green"), "echo\n\n  hi\tho"), ("12", "killed", long)])
    assert capsys.readouterr().out.splitlines() == [
        "RUN  STATUS    COMMAND",
        "  1  complete  echo hi ho",
        f" 12  killed    {long}",
    ]


def test_facts_are_below_one_another(capsys):
    show_facts([("run", "1"), ("command", "one\n two"), ("", Cell("note", "yellow")), ("empty", "")])
    assert capsys.readouterr().out == "run      1\ncommand  one\n          two\n         note\nempty\n"


def test_neither_names_nor_values_of_facts_can_act(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_facts([("a\x1b[2Jb", "c\x1b]0;d\x07"), ("x", "y")])
    shown = click.unstyle(capsys.readouterr().out)
    assert shown == "a␛[2Jb  c␛]0;d␇\nx       y\n"


@pytest.mark.parametrize(
    ("text", "line"), [("a  b", "a  b"), ("a \n b", "a b"), ("\ta\r\nb\n", " a b "), ("", "")]
)
def test_one_line(text, line):
    assert one_line(text) == line


def _drawn(monkeypatch, width, rows, columns=COLUMNS):
    monkeypatch.setenv("COLUMNS", str(width))
    return drawn_table(columns, rows)


def _plain(lines):
    return [click.unstyle(line) for line in lines]


def test_a_drawn_table_has_a_bold_heading_and_coloured_cells(monkeypatch):
    heading, row = _drawn(monkeypatch, 80, [("1", Cell("complete", "green"), "echo\nhi")])
    assert heading == "\x1b[1mRUN\x1b[0m  \x1b[1mSTATUS\x1b[0m    \x1b[1mCOMMAND\x1b[0m"
    assert row == "  1  \x1b[32mcomplete\x1b[0m  echo hi"


def test_on_a_narrow_terminal_what_may_shrink_shrinks_first(monkeypatch):
    lines = _plain(_drawn(monkeypatch, 20, [("1", "complete", "a long command")]))
    assert lines == ["RUN  STATUS    COMM…", "  1  complete  a lo…"]


def test_where_that_is_not_enough_the_widest_columns_shrink(monkeypatch):
    lines = _plain(_drawn(monkeypatch, 9, [("1", "complete", "a long command")]))
    assert lines == ["R…  S…  …", " 1  c…  …"]


def test_letters_are_as_wide_as_a_terminal_shows_them(monkeypatch):
    columns = [Column("A"), Column("B")]
    rows = [("漢字", "x"), ("e\u0301", "x"), ("abcde", "x")]
    assert _plain(_drawn(monkeypatch, 80, rows, columns))[1:] == ["漢字   x", "e\u0301      x", "abcde  x"]


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("漢字漢字", 5, "漢字…"), ("漢字", 4, "漢字"), ("ab", 1, "…")]
)
def test_a_cut_text_is_never_wider_than_its_room(text, width, shown):
    assert cut(text, width) == shown
