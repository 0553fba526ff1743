"""What `conjure generate` keeps where it is broken off: everything that was written until then."""

import json
import signal

import numpy as np
import pytest

from conjure.cli.language_model import generate as implementation
from conjure.errors import ModelError
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.generation import generate as generation
from conjure.lm.generation.engine_loading import LoadedEngine
from conjure.lm.generation.engines.base import PIECE
from conjure.lm.generation.request import GenerationRequest
from support.models import tiny_checkpoint, tiny_tokenizer
from support.scripted_engine import ScriptedEngine, ScriptedSession

TOKENIZER = tiny_tokenizer()
FIRST, SECOND = "My dog", "A prompt that is longer"


class Engine(ScriptedEngine):
    """Says "ok" to its first prompt, and never ends reading the second; its first step calls `on_second`."""

    def __init__(self, on_second) -> None:
        super().__init__(TOKENIZER, TOKENIZER.encode("ok"))
        self.on_second, self.steps_over_second = on_second, 0

    def session(self):
        return Session(self)


class Session(ScriptedSession):
    def step(self, rows, piece=PIECE):
        if list(rows) == [0]:
            return super().step(rows, piece)
        self._engine.steps_over_second += 1
        if self._engine.steps_over_second == 1:
            self._engine.on_second()
        assert self._engine.steps_over_second < 5, "it reads on"
        return [], np.empty((0, self._engine.vocab_size), np.float32)


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes samples of two prompts, one after the other, with an engine; gives the exit status."""
    source = resolve_model(str(tiny_checkpoint(tmp_path / "tiny")))
    monkeypatch.setattr(generation, "_MOST_ROWS", 1)

    def run(engine, prompts=(FIRST, SECOND), *, logprobs=False) -> int:
        loaded = LoadedEngine(engine, TOKENIZER, source, "float32")
        monkeypatch.setattr(implementation, "load_engine", lambda *_, **__: loaded)
        return implementation.generate(
            GenerationRequest(prompts=prompts, seed=1),
            model="tiny",
            adapter=None,
            precision="float32",
            chat_on=None,
            logprobs=logprobs,
            as_json=not logprobs,
            streaming=None,
            output=tmp_path / "samples.json",
        )

    return run


def kept(tmp_path, capsys) -> list[tuple[str, str]]:
    """Prompts and texts of what was saved, which is what was printed."""
    saved, printed = json.loads((tmp_path / "samples.json").read_text()), json.loads(capsys.readouterr().out)
    facts = [(sample["prompt"], sample["text"]) for sample in saved]
    assert facts == [(sample["prompt"], sample["text"]) for sample in printed]
    return facts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_is_stopped_while_it_reads_a_prompt(write, monkeypatch, tmp_path, capsys, number):
    monkeypatch.setenv("CONJURE_RUN", "1")
    before = signal.getsignal(number)
    engine = Engine(lambda: signal.raise_signal(number))
    assert write(engine) == 128 + number
    assert engine.steps_over_second == 1
    assert kept(tmp_path, capsys) == [(FIRST, "ok")]
    assert signal.getsignal(number) is before


def test_an_interrupt_while_it_reads_a_prompt_keeps_what_there_is(write, tmp_path, capsys):
    assert write(Engine(lambda: signal.raise_signal(signal.SIGINT))) == 130
    assert kept(tmp_path, capsys) == [(FIRST, "ok")]


@pytest.mark.parametrize("error", [ModelError("no numbers"), MemoryError(), RuntimeError("out of memory")])
def test_an_error_keeps_what_was_written_before(write, tmp_path, capsys, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        write(Engine(fail))
    assert caught.value is error
    assert kept(tmp_path, capsys) == [(FIRST, "ok")]


def test_an_error_before_any_text_prints_nothing(write, monkeypatch, tmp_path, capsys):
    def fail(*_arguments):
        raise ModelError("no numbers")

    monkeypatch.setattr(ScriptedSession, "step", fail)
    with pytest.raises(ModelError):
        write(Engine(fail))
    assert not (tmp_path / "samples.json").exists()
    assert capsys.readouterr().out == ""


def test_only_what_goes_on_from_nothing_has_no_space_of_its_own(write, monkeypatch):
    shown = []
    monkeypatch.setattr(implementation, "show_tokens", lambda *_, continues: shown.append(continues))
    assert write(ScriptedEngine(TOKENIZER, TOKENIZER.encode("ok")), ["", FIRST], logprobs=True) == 0
    assert shown == [False, True]


def test_a_signal_that_comes_before_the_first_step_is_enough(write, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CONJURE_RUN", "1")
    begin = implementation.StatusLine.__enter__

    def entered(status):
        signal.raise_signal(signal.SIGTERM)
        return begin(status)

    monkeypatch.setattr(implementation.StatusLine, "__enter__", entered)
    assert write(Engine(lambda: None)) == 128 + signal.SIGTERM
    assert kept(tmp_path, capsys) == []
