"""From conversations to a chat: the preview with its mask, the tune and its adapter, score and answer."""

import json
from dataclasses import replace
from datetime import date

import pytest

from conjure.cli.main import _run
from support.chats import FAILING, FAMILIES, chat_checkpoint

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"A {n * n}."},
        ]
    }
    for n in range(40)
]


@pytest.fixture
def model(tmp_path) -> str:
    return str(chat_checkpoint(tmp_path / "files", FAMILIES["chatml"]))


@pytest.fixture
def data(tmp_path) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*ROWS, {"messages": ROWS[0]["messages"][:1]}]))
    return str(path)


def test_the_preview_shows_what_is_learned(model, data, capsys):
    assert _run(["data", "preview", data, "--model", model, "-n", "1"]) == 0
    out, err = capsys.readouterr()
    assert "conversations (messages); only the answers are trained on" in err
    assert "<|im_start|>assistant␊⟦A 0.<|im_end|>⟧" in out.replace("⏎", "␊")
    assert "1 × no answer to train on" in out
    assert "answers     " in out
    assert _run(["data", "preview", data, "--model", model, "-n", "1", "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)["first_records"]
    assert len(first["learned"]) == first["tokens"]
    assert 0 < sum(first["learned"]) < first["tokens"]


@pytest.mark.usefixtures("short_reports")
def test_a_tune_keeps_its_adapter_and_both_can_be_asked(model, data, tmp_path, capsys):
    tune = [
        "finetune",
        data,
        "--no-run",
        "--model",
        model,
        "--output",
        str(tmp_path / "tuned"),
        "--lora",
        "2",
    ]
    assert _run([*tune, "--lora-output", "adapter", "--epochs", "1", "--prompt-loss-weight", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert "conversations (messages): " in err
    assert "Next:   conjure chat --model" in out
    ask = ["generate", "--chat", "What is 3?", "--seed", "1", "--length", "9", "--precision", "float32"]
    assert _run([*ask, "--model", str(tmp_path / "tuned")]) == 0
    merged = capsys.readouterr().out
    assert _run([*ask, "--model", model, "--adapter", str(tmp_path / "tuned.adapter")]) == 0
    assert capsys.readouterr().out == merged


def test_answers_are_scored(model, data, capsys):
    assert _run(["score", data, "--model", model, "--json"]) == 0
    out, err = capsys.readouterr()
    scored = json.loads(out)
    assert (scored["records"], scored["bytes"]) == (40, sum(len(f"A {n * n}.") for n in range(40)))
    assert "contains conversations (messages); their answers are scored" in err
    assert _run(["score", data, "--model", model]) == 0
    table = capsys.readouterr().out
    assert "protocol         answers, each after what comes before it, context " in table


def test_answers_are_scored_as_on_the_date_given(data, tmp_path, capsys, monkeypatch):
    template = FAMILIES["chatml"].template.replace("a test.", "a test of ' + strftime_now('%d') + '.")
    model = str(chat_checkpoint(tmp_path / "dated", replace(FAMILIES["chatml"], template=template)))

    def total(*options: str) -> float:
        assert _run(["score", data, "--model", model, "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["total"]

    given = [total("--chat-date", f"2026-02-0{day}") for day in (1, 2)]
    assert given[0] != given[1]
    monkeypatch.setattr("conjure.cli.language_model.score.today", lambda: date(2026, 2, 2))
    assert [total(), total("--chat-date", "2026-02-01")] == [given[1], given[0]]


def test_a_score_names_the_conversation_on_which_the_template_fails(data, tmp_path, capsys):
    model = str(chat_checkpoint(tmp_path / "failing", FAILING))
    assert _run(["score", data, "--model", model]) == 1
    err = capsys.readouterr().err
    assert f"{data}, line 3: the model's chat template fails: " in err
    assert "change this one, or leave it out" in err


def test_adapters_and_options_that_do_not_fit_are_one_sentence(model, data, tmp_path, capsys):
    assert _run(["generate", "--model", model, "--adapter", str(tmp_path / "no")]) != 0
    assert _run(["finetune", data, "--no-run", "--model", model, "--lora-output", "adapter"]) == 2
    assert "--lora-output is 'adapter', which needs --lora 8" in capsys.readouterr().err
    assert _run(["finetune", data, "--no-run", "--model", "sprite", "-o", str(tmp_path / "x")]) == 2
    assert "sprite has no chat template, and the data contain conversations" in capsys.readouterr().err
