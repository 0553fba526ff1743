"""What is found before a fine-tune gets a number, the plan alone, and the spellings people type."""

import io
import json

import pytest

import conjure
from conjure.cli.main import _run
from conjure.lm.checkpoints.pretrained import save_checkpoint
from support.models import tiny_checkpoint, tiny_model, tiny_tokenizer
from support.terminal import conjure as run_command


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "jokes.csv").write_text("ID,Joke\n1,The clock ran late.\n2,He sat down again.\n" * 9)
    tiny_checkpoint(folder / "tiny")
    return folder


@pytest.fixture
def call(capsys):
    def run(*arguments):
        status = _run(list(arguments))
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jokes.csv", "--column", "Jok"], "jokes.csv has no column 'Jok'; its columns are 'ID', 'Joke'"),
        (["nowhere.csv"], "nowhere.csv does not exist"),
        (
            ["jokes.csv", "--delimiter", "::"],
            r"delimiter must be one character (such as ; or |; \t is a tab) and no quote, not '::'",
        ),
        (["jokes.csv", "--encoding", "utf-9"], "encoding must be one that Python knows"),
        (["jokes.csv", "--split", "lines"], "is a table: each row is a record"),
        (["jokes.csv", "--column", "Joke", "--validation", "empty.csv"], "empty.csv is empty (0 bytes)"),
        (["hollow.csv", "--column", "Joke"], "hollow.csv contains no usable records"),
    ],
)
def test_data_that_cannot_be_used_costs_no_number(here, call, arguments, words):
    (here / "empty.csv").touch()
    (here / "hollow.csv").write_text("ID,Joke\n1,\n2,\n")
    status, out, note = call("finetune", "--model", "./tiny", *arguments)
    assert status in (1, 2)
    assert out == ""
    assert words in note
    assert json.loads(call("ps", "-a", "--json")[1]) == []


@pytest.mark.parametrize("recorded", [[], ["--no-run"]])
def test_a_dry_run_shows_the_plan_and_does_nothing_else(here, call, recorded):
    before = sorted(here.rglob("*"))
    status, out, _ = call("finetune", "jokes.csv", "--model", "./tiny", "--dry-run", *recorded)
    assert status == 0
    for word in ("Model ", "Text ", "Split ", "Steps ", "Rate ", "Machine "):
        assert word in out
    assert "step 1" not in out
    assert sorted(here.rglob("*")) == before
    assert json.loads(call("ps", "-a", "--json")[1]) == []


def test_a_dry_run_for_programs(here, call):
    status, out, _ = call(
        "finetune", "jokes.csv", "--model", "./tiny", "--dry-run", "--json", "--epochs", "2"
    )
    assert status == 0
    assert json.loads(out)["epochs"] == 2


def test_the_spellings_people_type(here, call):
    plan = ["finetune", "jokes.csv", "--model", "./tiny", "--dry-run", "--json"]
    short, long = (json.loads(call(*plan, name, "0.002")[1]) for name in ("--lr", "--learning-rate"))
    assert short["learning_rate"] == long["learning_rate"] == 0.002
    generate = ["generate", "--model", "./tiny", "--length", "5", "--seed", "3"]
    assert call(*generate, "--prompt", "My dog")[1] == call(*generate, "My dog")[1]
    assert call(*generate, "-o", "samples.json", "My dog")[0] == 0
    assert json.loads((here / "samples.json").read_text())[0]["prompt"] == "My dog"
    assert call("score", "My dog.", "--model", "./tiny", "-o", "score.json")[0] == 0
    assert json.loads((here / "score.json").read_text())["records"] == 1


def test_a_prompt_is_given_once(here, call):
    for more in (["My dog"], ["--prompt-file", "jokes.csv"]):
        status, _, note = call("generate", "--model", "./tiny", "--prompt", "My cat", *more)
        assert status == 2
        assert "cannot both be given" in note


def test_a_recorded_prompt_is_the_prompt_whichever_way_it_was_given(here, call, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"My dog")))
    for words in (["My dog"], ["--prompt", "My dog"], ["-"]):
        assert call("generate", "--model", "./tiny", "--length", "3", "--seed", "1", "--save", *words)[0] == 0
    first, *others = (json.loads(call("info", number, "--json")[1])["command"] for number in "123")
    assert others == [first, first]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x", "-n", "0"], "error: -n must be at least 1, not 0"),
        (["generate", "x", "--num-samples=0"], "error: --num-samples must be at least 1, not 0"),
        (["generate", "x", "--max-new-tokens", "0"], "error: --max-new-tokens must be at least 1, not 0"),
        (["finetune", "jokes.csv", "--lr", "7"], "error: --lr must be above 0 and at most 1, not 7.0"),
        (["finetune", "jokes.csv", "--delimiter", ""], "error: --delimiter must be one character"),
        (["score", "jokes.csv", "--encoding", "x"], "error: --encoding must be one that Python knows"),
        (
            ["score", "x", "--model", "./tiny", "--stride", "0"],
            "error: --stride must be from 1 to the context, not 0",
        ),
        (["data", "preview", "jokes.csv", "--split", "lines"], "error: --split 'lines' is for text"),
        (
            ["finetune", "jokes.csv", "--dry-run", "--model", "./tiny", "--freeze", "9"],
            "error: --freeze is 9; ",
        ),
    ],
)
def test_errors_name_what_was_typed(here, arguments, words):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_run_s_model_is_loaded_by_its_name(here, call):
    (here / "make.py").write_text("import shutil; shutil.copytree('tiny', 'output')\n")
    assert call("run", "python", "make.py")[0] == 0
    assert conjure.load("runs/1").score("My dog.").total == conjure.load(here / "tiny").score("My dog.").total
    assert conjure.load("runs/1/output").model.config == conjure.load("runs/1").model.config
    with pytest.raises(conjure.ConjureError, match="runs/9 does not exist"):
        conjure.load("runs/9")


def test_text_that_the_model_hardly_knows_is_said_in_the_plan(here, call):
    save_checkpoint(here / "wide", tiny_model(context_length=64), tiny_tokenizer())
    (here / "greek.txt").write_text("Ο σκύλος έφαγε το ρολόι.\nΗ γάτα κοιμάται πάλι.\n" * 20)
    arguments = ["finetune", "greek.txt", "--split", "lines", "--model", "./wide", "--dry-run"]
    status, out, note = call(*arguments)
    assert status == 0
    assert "bytes per token" in out + note
