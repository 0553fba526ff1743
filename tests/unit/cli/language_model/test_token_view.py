"""Tokens with their log-probabilities: the coloured text loses no character."""

import click
import pytest

from conjure.cli.language_model import token_view
from conjure.lm.text.tokenizer import Tokenizer
from support.chats import FAMILIES, chat_folder


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """What a terminal shows of a text's tokens, with a tokenizer that puts a space before every text."""
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, FAMILIES["llama2"]))
    monkeypatch.setattr(token_view, "on_terminal", lambda: True)

    def show(text: str, *, continues: bool) -> str:
        ids = tokenizer.encode(text)
        token_view.show_tokens(tokenizer, ids, [-1.0] * len(ids), continues=continues)
        return click.unstyle(capsys.readouterr().out).splitlines()[0]

    return show


def test_a_space_before_the_first_token_is_the_tokenizer_s_own_or_one_of_the_text(shown):
    assert shown("a cat", continues=False) == "a cat"
    assert shown("a cat", continues=True) == " a cat"
