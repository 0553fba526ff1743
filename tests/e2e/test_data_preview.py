"""`conjure data preview`, the installed command: what it prints where, and one sentence for bad input."""

import json
import os
import pty
import subprocess

import pytest

from conjure.cli.main import _run
from conjure.lm.models.registry import config_settings
from support.chats import FAMILIES, chat_folder
from support.models import tiny_config, tiny_tokenizer
from support.records import JOKES, many_records, write_records
from support.terminal import CONJURE, conjure, installed


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a model's tokenizer beside an empty file of weights: none are needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    model = tmp_path / "model"
    model.mkdir()
    tiny_tokenizer().save(model)
    (model / "config.json").write_text(json.dumps(config_settings(tiny_config())))
    (model / "model.safetensors").touch()
    return tmp_path


def preview(*arguments: str) -> int:
    """The command in this process, as `conjure` runs it; returns its exit status."""
    return _run(["data", "preview", *arguments, "--model", "model"])


def test_the_installed_command_keeps_results_and_notes_apart(here):
    write_records(here / "jokes.csv", JOKES)
    arguments = ["data", "preview", "jokes.csv", "--model", "model", "-n", "2"]
    done = installed(*arguments)
    assert done.returncode == 0
    assert (
        done.stderr == "note: reading column 'Joke' of jokes.csv, the only one with text"
        " (use --column NAME for another)\n"
    )
    assert "records     5 records\n" in done.stdout
    assert "The first 2 records, as the model sees them:" in done.stdout
    assert f"{JOKES[1]}<|endoftext|>" in done.stdout
    assert JOKES[2] not in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_the_names_of_a_models_tokens_cannot_act_on_the_terminal(here, capsys, kind):
    name = "\x1b]0;mine\x07\u202e"
    folder = chat_folder(here / "model", FAMILIES["chatml"])
    for file in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<|im_end|>", json.dumps(name)[1:-1]))
    row = {"prompt": f"Who? {name}", "completion": "Me."} if kind == "chat" else {"text": f"Me. {name}"}
    (here / "a.jsonl").write_text(json.dumps(row))
    assert preview("a.jsonl") == 0
    shown = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e"} & set(shown.out + shown.err)
    picture = "␛]0;mine␇\\u202e"
    assert f"\\{picture}{picture}" in shown.out  # text, which is no token, and the token after it


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(here):
    write_records(here / "jokes.csv", JOKES)
    ours, theirs = pty.openpty()
    command = [CONJURE, "data", "preview", "jokes.csv", "--model", "model"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "Turning text into tokens" in shown
    assert "Turning" not in done.stdout
    assert "\x1b" not in done.stdout


def test_standard_input_is_text(here):
    arguments = ["data", "preview", "-", "--split", "lines", "--model", "model", "--json"]
    text = "Времени нет, а часы идут.\nsecond\n"
    done = conjure(*arguments, text=text)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert [record["text"] for record in result["first_records"]] == [
        f"{line}<|endoftext|>" for line in text.splitlines()
    ]


def test_json_holds_all_the_facts(here, capsys):
    write_records(here / "jokes.csv", [*many_records(300), " "])
    assert preview("jokes.csv", "--json", "-n", "1") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["records"], result["bad_row_count"]) == (300, 1)
    assert result["bad_rows"] == ["1 × empty (first: jokes.csv, line 302)"]
    assert result["holdout"]["method"] == "records"
    assert result["holdout"]["train_records"] + result["holdout"]["heldout_records"] == 300
    (first,) = result["first_records"]
    assert (
        tiny_tokenizer().decode(first["token_ids"]) == first["text"] == f"{many_records(1)[0]}<|endoftext|>"
    )
    assert first["tokens"] == len(first["token_ids"])
    assert sum(result["lengths"]["histogram"]["counts"]) == 300


def test_duplicates_that_are_not_trained_on_are_counted(here, capsys):
    write_records(here / "twice.csv", [*many_records(40), *many_records(40)])
    assert preview("twice.csv") == 0
    shown = capsys.readouterr().out
    assert preview("twice.csv", "--json") == 0
    dropped = json.loads(capsys.readouterr().out)["holdout"]["train_dropped"]
    assert dropped > 0
    assert f"duplicates  {dropped} records not trained on" in shown


def test_few_records_are_told_what_is_held_out(here, capsys):
    write_records(here / "one.csv", ["Only one joke here."])
    assert preview("one.csv") == 0
    out = capsys.readouterr().out
    assert "held out    the last 10% of the tokens are held out: the text has only 1 record" in out
    assert "The first record, as the model sees it:" in out


def test_line_ends_and_control_characters_are_shown_not_sent(here, capsys):
    write_records(here / "a.jsonl", ["two\nlines \x1b[2J\x07 and \x9b"])
    assert preview("a.jsonl") == 0
    out = capsys.readouterr().out
    assert "two⏎lines ␛[2J␇ and \\x9b<|endoftext|>" in out
    assert "\x1b[2J" not in out


def test_a_long_record_is_cut_short_but_for_its_end(here, capsys):
    (here / "novel.txt").write_text("猫は寝ている。" * 500)
    assert preview("novel.txt") == 0
    out = capsys.readouterr().out
    assert "more tokens … <|endoftext|>" in out
    assert "\ufffd" not in out
    assert len(out) < 2000


def test_bars_show_every_length(here, capsys):
    write_records(here / "a.csv", ["x" * 9] * 400 + ["x" * 400])
    assert preview("a.csv", "-n", "0") == 0
    bars = capsys.readouterr().out.split("Tokens per record:\n")[1].splitlines()
    assert bars == [
        "           9  400  " + "█" * 40,
        "          10    0",
        "          11    0",
        "  12 or more    1  ▏",
    ]


@pytest.mark.parametrize(
    ("name", "content", "arguments", "status", "said"),
    [
        ("jokes.csv", None, [], 1, "jokes.csv does not exist"),
        ("jokes.csv", b"", [], 1, "jokes.csv is empty (0 bytes)"),
        (
            "jokes.csv",
            b"ID,Joke\n1,a b\n",
            ["--column", "joke"],
            2,
            "no column 'joke'; its columns are 'ID', 'Joke'",
        ),
        ("jokes.csv", b"Q,A\nwho is,it is\n", [], 2, "several columns that could be the text"),
        ("jokes.csv", b'ID,"Joke\n1,a b\n', [], 1, "line 1: unclosed quote where the columns are named"),
        ("jokes.csv", b"ID,Joke\n1,\xe9\xe8 \xe9\n", [], 1, "1 × wrong encoding (first: jokes.csv, line 2"),
        ("jokes.txt", b"caf\xe9", [], 1, "1 × wrong encoding"),
        ("jokes.txt", b"a\0b", [], 1, "1 × NUL character"),
        ("jokes.txt", b"one", ["--column", "Joke"], 2, "column 'Joke' needs a table"),
        ("jokes.jsonl", b'{"Joke": \n', ["--column", "Joke"], 1, "1 × broken JSON"),
        ("jokes.parquet", b"no", [], 1, "is not a Parquet file, or is damaged"),
        ("jokes.doc", b"text", [], 2, "jokes.doc has no supported file type"),
    ],
)
def test_bad_input_is_one_sentence(here, capsys, name, content, arguments, status, said):
    if content is not None:
        (here / name).write_bytes(content)
    assert preview(name, *arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    sentences = [line for line in captured.err.splitlines() if not line.startswith("note: reading column ")]
    assert len(sentences) <= 2  # what is wrong, and what to do


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        (b'ID,Joke\n1,a "b\n2,"open\n3,"fine"\n', "unclosed quote"),
        (b"ID,Joke\n1,\xe9 b\n2,a b\n3,c d\n", "wrong encoding"),
    ],
)
def test_a_bad_row_is_left_out_and_said_so(here, capsys, content, left_out):
    (here / "jokes.csv").write_bytes(content)
    assert preview("jokes.csv") == 0
    out = capsys.readouterr().out
    assert "records     2 records\n" in out
    assert f"left out    1 × {left_out} (first: jokes.csv, line " in out
