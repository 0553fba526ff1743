import subprocess
import sys

import pytest

from conjure.cli.tables import Cell, Column, one_line, show_facts, show_table

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


@pytest.mark.parametrize(
    ("text", "line"), [("a  b", "a  b"), ("a \n b", "a b"), ("\ta\r\nb\n", " a b "), ("", "")]
)
def test_one_line(text, line):
    assert one_line(text) == line


def test_rich_is_for_terminals_only():
    program = (
        "import sys\n"
        "from conjure.cli.tables import Column, show_table\n"
        "show_table([Column('A')], [('1',)])\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
