"""Words for a shell, and text for a terminal: read back exactly, and never a control character."""

import subprocess

import pytest

from conjure.core.quoting import printable, shell_words


@pytest.mark.parametrize(
    "word",
    ["Joke", "Joke Text", "It's", "", "-x", "$(id)", "a\nb", "tab\t'q' \\", "\x1b[31m", "\u202egnp", "Шутка"],
)
def test_bash_reads_the_word_back(word):
    line = shell_words("printf", "%s", word)
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode() == word
    assert printable(line) == line


@pytest.mark.parametrize("word", list(map(chr, (0xDC00, 0xDCE9, 0xD83D, 0))))
def test_what_is_no_text_is_spelled_all_the_same(word):
    assert printable(shell_words(word)) == shell_words(word)


def test_a_message_cannot_act_on_a_terminal():
    assert printable("a\x1b[2J\r\udce9\u2028\nb") == "a\\x1b[2J\\r\\xe9\\u2028\nb"
