"""A conversation: what is asked of the model, what is remembered, and what is said beside it."""

import io
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from conjure.cli.language_model import chat
from conjure.cli.language_model.chat import Chat, _answer, _answer_typed, _lines, _typed
from conjure.errors import ContextLengthError, DataError
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.generation.engine_loading import LoadedEngine
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.tokenizer import Tokenizer
from support.chats import FAMILIES, chat_folder
from support.scripted_engine import ScriptedEngine, ScriptedSession

SOURCE = ModelSource("it", Path("it"), "folder")


class Listener(ScriptedEngine):
    """Says its script whatever it reads, and keeps what it read."""

    def session(self):
        return ListeningSession(self)


class ListeningSession(ScriptedSession):
    def add(self, rows, capacities):
        if rows:
            self._engine.read = list(rows[0])
        return super().add(rows, capacities)


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer.from_folder(chat_folder(tmp_path, FAMILIES["chatml"]))


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder.of(tokenizer, model="it", day=date(2026, 3, 1))


@pytest.fixture
def engine(tokenizer):
    return Listener(tokenizer, tokenizer.encode("the cat sat"))


@pytest.fixture
def talk(engine, tokenizer, encoder):
    return Chat(
        LoadedEngine(engine, tokenizer, SOURCE, "float32"),
        encoder,
        GenerationRequest(max_new_tokens=20, seed=1),
    )


def test_every_answer_is_given_to_the_whole_conversation(talk, engine, encoder):
    assert "".join(talk.answer("Where?")) == "the cat sat"
    assert talk.finish_reason == "end_of_text"
    list(talk.answer("Why?"))
    said = [Message("user", "Where?"), Message("assistant", "the cat sat"), Message("user", "Why?")]
    assert engine.read == encoder.prompt(said)
    assert talk.messages == [*said, Message("assistant", "the cat sat")]
    talk.reset()
    list(talk.answer("Who?"))
    assert engine.read == encoder.prompt([Message("user", "Who?")])


def test_the_oldest_messages_are_left_out_where_the_context_is_full(talk, engine, encoder):
    for question in ("One?", "Two?", "Three?"):
        list(talk.answer(question))
    kept = talk.messages[4:]
    engine.context_length = len(encoder.prompt([*kept, Message("user", "Four?")])) + 20
    list(talk.answer("Four?"))
    assert talk.left_out == 4
    assert engine.read == encoder.prompt([*kept, Message("user", "Four?")])


def test_a_small_context_is_no_reason_to_forget(talk, engine, encoder):
    talk.request = replace(talk.request, max_new_tokens=512)
    engine.context_length = 100
    list(talk.answer("One?"))
    list(talk.answer("Two?"))
    said = [*talk.messages[:2], Message("user", "Two?")]
    assert (talk.left_out, engine.read) == (0, encoder.prompt(said))
    assert talk.longest == 100 - len(engine.read)
    for question in ("Three?", "Four?", "Five?", "Six?"):
        list(talk.answer(question))
        assert len(engine.read) <= 75
    assert 0 < talk.left_out < 10


def test_an_answer_has_what_is_left_of_the_context(engine, talk, encoder, tokenizer, capsys):
    engine.scripts = [tokenizer.encode("the cat sat on the mat")]
    engine.context_length = len(encoder.prompt([Message("user", "Where?")])) + 2
    _answer(talk, "Where?")
    assert (talk.finish_reason, len(tokenizer.encode(talk.messages[-1].content))) == ("length", 2)
    assert capsys.readouterr().err == "The answer was cut off at the end of the context.\n"
    talk.reset()
    talk.request = replace(talk.request, max_new_tokens=1)
    _answer(talk, "Where?")
    assert capsys.readouterr().err == "The answer was cut off at the maximum length (--length).\n"


def test_a_message_longer_than_the_context_is_refused_and_not_remembered(engine, talk, encoder):
    tokens = len(encoder.prompt([Message("user", "Where?")]))
    engine.context_length = tokens
    with pytest.raises(ContextLengthError) as refused:
        list(talk.answer("Where?"))
    assert str(refused.value) == f"the message is {tokens} tokens long; the model's context is {tokens}"
    assert talk.messages == []


def test_an_interrupted_answer_is_remembered_as_far_as_it_came(talk):
    pieces = talk.answer("Where?")
    first = next(pieces)
    pieces.close()
    assert talk.messages == [Message("user", "Where?"), Message("assistant", first)]
    assert talk.finish_reason is None


def test_a_message_that_the_template_refuses_is_not_remembered(engine, tmp_path_factory):
    folder = chat_folder(tmp_path_factory.mktemp("gemma"), FAMILIES["gemma"])
    tokenizer = Tokenizer.from_folder(folder)
    encoder = ChatEncoder.of(tokenizer, model="it")
    refusing = Chat(LoadedEngine(engine, tokenizer, SOURCE, "float32"), encoder, GenerationRequest())
    refusing.messages = [Message("user", "One?")]
    with pytest.raises(DataError, match="Conversation roles must alternate"):
        list(refusing.answer("Two?"))
    assert refusing.messages == [Message("user", "One?")]


def test_messages_that_are_not_utf8_are_one_sentence():
    messages = _lines(io.BytesIO("\ufeffWhere?\r\n\nö\n".encode() + b"a\xff\n"))
    assert [next(messages), next(messages)] == ["Where?", "ö"]
    with pytest.raises(DataError, match="not UTF-8 text: byte 2 of line 4 cannot be read"):
        next(messages)


@pytest.mark.parametrize("stdout_is_terminal", [True, False])
def test_no_prompt_is_in_a_file_with_the_answers(monkeypatch, capsys, stdout_is_terminal):
    prompts = []
    monkeypatch.setattr("sys.stdout.isatty", lambda: stdout_is_terminal)
    monkeypatch.setattr("builtins.input", lambda prompt="": prompts.append(prompt) or "Where?")
    assert next(_typed()) == "Where?"
    on_stdout, on_stderr = ("> ", "") if stdout_is_terminal else ("", "> ")
    assert (prompts, capsys.readouterr().err) == ([on_stdout], on_stderr)


def test_what_is_left_out_once_is_not_tried_again(talk, engine, encoder, monkeypatch):
    asked, prompt = [], encoder.prompt
    monkeypatch.setattr(
        encoder, "prompt", lambda messages, **given: asked.append(len(messages)) or prompt(messages, **given)
    )
    for question in ("One?", "Two?", "Three?"):
        list(talk.answer(question))
    engine.context_length = len(prompt([*talk.messages[4:], Message("user", "Four?")])) + 20
    list(talk.answer("Four?"))
    assert asked[3:] == [7, 5, 3]
    list(talk.answer("Five?"))
    assert asked[6:] == [5, 3]
    assert talk.left_out == 6
    talk.reset()
    list(talk.answer("Six?"))
    assert asked[8:] == [1]
    assert talk.left_out == 0


def test_what_a_refused_message_would_leave_out_is_kept(talk, engine, encoder):
    list(talk.answer("One?"))
    engine.context_length = len(encoder.prompt([*talk.messages, Message("user", "Two?")])) + 20
    with pytest.raises(ContextLengthError):
        list(talk.answer("word " * 500))
    assert talk.left_out == 2
    list(talk.answer("Two?"))
    assert talk.left_out == 0


def interrupted(_, message):
    yield "the "
    raise KeyboardInterrupt


@pytest.fixture
def piped(monkeypatch, talk, tokenizer, engine):
    """Chats with these bytes on standard input, which is no terminal."""

    def run(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(
            chat, "load_engine", lambda *_, **__: LoadedEngine(engine, tokenizer, SOURCE, "float32")
        )
        settings = {"model": "it", "adapter": None, "precision": "float32", "day": date(2026, 3, 1)}
        return chat.chat(talk.request, **settings)

    return run


def test_an_interrupt_ends_a_chat_whose_messages_are_not_typed(piped, talk, monkeypatch, capsys):
    assert piped(b"Where?\nWhy?\n") == 0
    assert capsys.readouterr().out == "the cat sat\n" * 2
    monkeypatch.setattr(Chat, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        piped(b"Where?\nWhy?\n")
    assert capsys.readouterr().out == "the "
    _answer_typed(talk, "Where?")  # who types goes on
    assert capsys.readouterr().out == "the \n"


def test_a_message_without_an_answer_ends_a_chat_whose_messages_are_not_typed(piped, engine, talk, capsys):
    long = "word " * 500
    engine.context_length = 100
    with pytest.raises(ContextLengthError):
        piped(f"Where?\n{long}\nWhy?\n".encode())
    assert capsys.readouterr().out == "the cat sat\n"
    _answer_typed(talk, long)
    assert "the model's context is 100; /reset starts over." in capsys.readouterr().err
