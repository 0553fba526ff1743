"""`conjure chat` and `conjure generate --chat`, the installed command."""

import os
import pty
import readline
import subprocess
import sys

import pytest

from conjure import load
from conjure.cli.main import _run
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import EncodedPrompt, GenerationRequest
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from support.chats import FAMILIES, chat_checkpoint
from support.models import tiny_checkpoint
from support.terminal import CONJURE, TIMEOUT_S, conjure, environment

SETTINGS = ["--length", "12", "--seed", "7", "--precision", "float32"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(chat_checkpoint(tmp_path_factory.mktemp("chat") / "files", FAMILIES["chatml"]))


def answer_to(model, *messages, seed=7):
    """What the library answers, asked the same."""
    loaded = load(model)
    ids = ChatEncoder.of(loaded.tokenizer, model=model).prompt(messages)
    request = GenerationRequest(prompts=[EncodedPrompt("", ids)], max_new_tokens=12, seed=seed)
    return generate(loaded.model, loaded.tokenizer, request)[0].text


def test_lines_on_standard_input_are_messages_and_stdout_has_the_answers(model):
    done = conjure("chat", "--model", model, *SETTINGS, text="Where?\n\nWhy?\n/reset\n/help\nWhere?\n")
    first = answer_to(model, Message("user", "Where?"))
    second = answer_to(
        model, Message("user", "Where?"), Message("assistant", first), Message("user", "Why?"), seed=8
    )
    third = answer_to(model, Message("user", "Where?"), seed=9)
    assert done.stdout == f"{first}\n{second}\n{third}\n"
    assert "A new conversation." in done.stderr
    assert "There is no command /help" in done.stderr
    assert done.returncode == 0


def test_on_a_terminal_it_asks_and_ends_at_the_end_of_input(model):
    screen, theirs = pty.openpty()
    process = subprocess.Popen(
        [CONJURE, "chat", "--model", model, *SETTINGS],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"> ") < 1:
        shown += os.read(screen, 4096)
    os.write(screen, b"Where?\n")
    while shown.count(b"> ") < 2:
        shown += os.read(screen, 4096)
    os.write(screen, b"\x04")
    assert process.wait(timeout=TIMEOUT_S) == 0
    os.close(screen)
    assert b"/reset starts over" in shown


def test_generate_asks_a_question(model, capsys):
    assert _run(["generate", "Where?", "--chat", "--model", model, *SETTINGS]) == 0
    assert capsys.readouterr().out == answer_to(model, Message("user", "Where?")) + "\n"


def test_what_cannot_chat_is_one_sentence(model, tmp_path, capsys):
    base = str(tiny_checkpoint(tmp_path / "base"))
    assert _run(["generate", "Where?", "--chat", "--model", base]) == 2
    assert "has no chat template: it is a base model" in capsys.readouterr().err
    assert _run(["chat", "--model", base]) == 2
    err = capsys.readouterr().err
    assert "has no chat template: it is a base model" in err
    assert "hint: use a chat model, such as smollm2, or `conjure generate` without --chat" in err
    assert _run(["generate", "--chat", "--model", model]) == 2
    assert "--chat needs a question" in capsys.readouterr().err
    assert _run(["chat", "--chat-date", "today"]) == 2
    assert "today" in capsys.readouterr().err


# Says which message is typed first.
TYPED = "from conjure.cli.language_model.chat import _typed; print(repr(next(_typed())), flush=True)"


@pytest.mark.skipif("libedit" in (readline.__doc__ or ""), reason="only readline can")
def test_several_pasted_lines_are_one_message():
    screen, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TYPED], stdin=theirs, stdout=theirs, stderr=theirs, env=environment()
    )
    os.close(theirs)
    shown = b""
    while b"> " not in shown:
        shown += os.read(screen, 4096)
    os.write(screen, b"\x1b[200~Where?\nWhy?\x1b[201~\r")
    while b"'" not in shown.partition(b"> ")[2]:
        shown += os.read(screen, 4096)
    assert process.wait(timeout=TIMEOUT_S) == 0
    os.close(screen)
    assert b"\x1b[?2004h" in shown  # it asks the terminal to mark what is pasted, as is done here
    assert rb"'Where?\nWhy?'" in shown


def test_a_message_without_an_answer_ends_the_chat_that_is_not_typed(model):
    done = conjure("chat", "--model", model, *SETTINGS, text=f"Where?\n{'word ' * 999}\nWhy?\n")
    assert done.stdout == f"{answer_to(model, Message('user', 'Where?'))}\n"
    assert (done.returncode, done.stderr.count("error: the message is")) == (1, 1)
