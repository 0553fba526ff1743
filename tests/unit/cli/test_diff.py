import click
import pytest

from conjure.cli.commands.diff import _code_lines
from conjure.runs.inspect.run_diff import CodeDifference, FileChange

FILES = (FileChange("a", "a", 3, 0, "added"), FileChange("data", "data", None, None, "added"))


def shown(code):
    return [click.unstyle(line) for line in _code_lines(code)]


def test_each_file_that_differs_is_shown():
    lines = shown(CodeDifference(files=FILES))
    assert [line.split() for line in lines[:2]] == [
        ["+3", "-0", "a", "(added)"],
        ["binary", "data", "(added)"],
    ]
    assert lines[2:] == ["  2 files, +3 -0 lines"]


@pytest.mark.parametrize("number", [1, 2])
def test_code_against_none_is_one_line(number):
    """A fine-tune has no code: beside a run of a project, all its files would be listed."""
    assert shown(CodeDifference(files=FILES, only_in=number)) == [
        f"  only run {number} has code: 2 files, +3 -0 lines"
    ]
