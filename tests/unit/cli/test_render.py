"""Text on a terminal: it cannot act, whichever stream it goes to, and a line that is rewritten stays one."""

import sys

import pytest

from conjure.cli.render import note, visible


@pytest.fixture
def stderr_only(monkeypatch):
    """A terminal on stderr, as under ``>log``."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_text_cannot_act_on_the_stream_that_is_a_terminal(stderr_only):
    assert visible("a\x1b[2Jb", err=True) == "a␛[2Jb"
    assert visible("a\x1b[2Jb") == "a\x1b[2Jb"


@pytest.mark.parametrize("character", [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))])
def test_text_cannot_change_the_direction_of_what_follows(stderr_only, character):
    assert visible(f"a{character}b", err=True) == "a\ufffdb"


def test_a_note_cannot_act(capsys):
    note("left out: a\x1b]0;b\x07\udcff")
    assert capsys.readouterr().err == "left out: a\\x1b]0;b\\x07\\xff\n"
