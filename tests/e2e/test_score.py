"""`conjure score`, the installed command: numbers with their protocol, text or files, and bad input."""

import json
import math

import pytest

from conjure.cli.main import _run
from support.models import TEXTS, tiny_checkpoint, tiny_tokenizer
from support.records import write_records
from support.terminal import Terminal, conjure


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("score")
    return [str(tiny_checkpoint(folder / f"model{seed}", seed, context_length=32)) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def score(models, capsys):
    """The command in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = _run(["score", *arguments, "--model", models[0]])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def library(models):
    from conjure import load

    return load(models[0])


def test_the_installed_command_prints_numbers_beside_their_protocol(models, library):
    done = conjure("score", TEXTS[0], "--model", models[0])

    expected = library.score(TEXTS[0])
    assert done.returncode == 0
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    facts = {label.strip(): value.strip() for label, value in rows.items()}
    assert facts == {
        "model": f"{models[0]} (folder), float32",
        "protocol": "after <|endoftext|>, context 32, stride 16",
        "text": f"1 record, {len(TEXTS[0].split())} words, {len(TEXTS[0].encode())} bytes",
        "scored": f"{len(expected.token_ids)} tokens",
        "log-probability": f"{expected.total:,.3f} nats",
        "loss": f"{expected.tally.loss:.4f} nats per token",
        "perplexity": f"{expected.perplexity:,.2f} per token",
        "word perplexity": facts["word perplexity"],
        "bits per byte": f"{expected.tally.bits_per_byte:.4f}",
    }
    assert done.stderr == "Scoring the text given.\n"


def test_json_of_a_text_has_its_tokens(score, library):
    status, out, _ = score(TEXTS[3], "--json", "--context", "8", "--stride", "3")

    expected = library.score(TEXTS[3], context=8, stride=3)
    result = json.loads(out)
    assert status == 0
    assert result["token_ids"] == expected.token_ids
    assert result["token_logprobs"] == pytest.approx(expected.token_logprobs)
    assert result["total"] == pytest.approx(sum(expected.token_logprobs))
    assert result["perplexity"] == pytest.approx(math.exp(-result["total"] / len(expected.token_ids)))
    assert (result["context"], result["stride"], result["records"]) == (8, 3, 1)


def test_a_file_is_scored_record_by_record_whatever_its_format(score, library, here):
    expected = [library.score(text) for text in TEXTS]
    for name in ("jokes.csv", "jokes.jsonl"):
        write_records(here / name, TEXTS)
        _, out, note = score(name, "--json")
        result = json.loads(out)
        assert result["records"] == len(TEXTS)
        assert result["total"] == pytest.approx(sum(one.total for one in expected), rel=1e-6)
        assert result["mean_record_logprob"] == pytest.approx(result["total"] / len(TEXTS))
        assert result["tokens"] == sum(len(one.token_ids) for one in expected)
        assert result["bytes"] == sum(len(text.encode()) for text in TEXTS)
        assert "scores" not in result, "a corpus of tokens is printed only when asked for"
        assert f"Scoring {name}." in note


def test_per_token_json_of_a_file_has_every_record(score, library, here):
    write_records(here / "jokes.csv", TEXTS)
    _, out, _ = score("jokes.csv", "--json", "--per-token")
    scores = json.loads(out)["scores"]
    assert [one["token_ids"] for one in scores] == [library.score(text).token_ids for text in TEXTS]


def test_rows_left_out_are_told(score, here):
    write_records(here / "jokes.csv", [*TEXTS, "  "])
    _, _, note = score("jokes.csv")
    assert "Left out: 1 × empty (first: jokes.csv, line 7)" in note


def test_a_text_that_is_also_a_file_is_told_apart_by_a_flag(score, here):
    (here / "poem").mkdir()
    (here / "poem" / "one.txt").write_text("A file of text.")
    status, out, note = score("poem", "--text", "--json")
    assert (status, json.loads(out)["bytes"]) == (0, 4)
    assert note == "Scoring the text given.\n"
    _, out, note = score("poem", "--json")
    assert json.loads(out)["bytes"] == 15
    assert note == "Scoring poem.\n"


def test_per_token_is_a_table_elsewhere_and_colour_on_a_terminal(score, models, library):
    expected = library.score("猫 He")

    _, out, _ = score("猫 He", "--per-token")
    terminal = Terminal("score", "猫 He", "--per-token", "--model", models[0])
    assert terminal.close() == 0

    rows = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert rows[0] == ["position", "token_id", "logprob", "token"]
    assert [int(row[1]) for row in rows[1:]] == expected.token_ids
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(expected.token_logprobs, abs=1e-6)
    pieces = b"".join(
        json.loads(row[3]).encode().decode("unicode_escape").encode("latin-1") for row in rows[1:]
    )
    assert pieces.decode() == "猫 He", "the table loses no byte"
    assert f"of {len(expected.token_ids)} tokens · " in terminal.shown, "how far it is"
    assert "-log p in nats:" in terminal.shown
    assert "\x1b[38;5;16m\x1b[48;5;" in terminal.shown
    assert "猫" in terminal.shown, "three tokens, one whole character"


def test_two_models_side_by_side(models, capsys):
    from conjure import load

    assert _run(["score", TEXTS[0], "--compare", *models]) == 0
    out = capsys.readouterr().out
    assert _run(["score", TEXTS[0], "--compare", *models, "--json"]) == 0
    both = json.loads(capsys.readouterr().out)

    totals = [load(model).score(TEXTS[0]).total for model in models]
    assert [one["total"] for one in both] == pytest.approx(totals)
    bits = (totals[0] - totals[1]) / len(TEXTS[0].encode()) / math.log(2)
    assert f"{totals[1] - totals[0]:+,.3f} nats in total, {bits:+.4f} bits per byte" in out
    assert "different tokenizers" not in out, "they share a tokenizer"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["jokes.csv"], 1, "there is no file jokes.csv"),
        (["JOKES.CSV"], 1, "there is no file JOKES.CSV"),
        (["held_out.csv.gz"], 1, "there is no file held_out.csv.gz"),
        (["held_out.ndjson"], 1, "there is no file held_out.ndjson"),
        (["My", "dog"], 1, "there is no file My"),
        (["My", "dog", "--text"], 2, "only one text can be scored; 2 were given"),
        ([""], 1, "the text is empty"),
        (["x", "--context", "33"], 2, "--context must be from 1 to the model's 32 tokens, not 33"),
        (["x", "--stride", "0"], 2, "--stride must be from 1 to the context, not 0"),
        (  # the fixture gives --model
            ["x", "--per-token", "--compare", "a", "b"],
            2,
            "--per-token and --model cannot be combined with --compare",
        ),
        ([], 2, "missing argument 'TEXT|FILES...'"),
    ],
)
def test_each_fault_is_one_sentence(score, arguments, status, words):
    actual, out, note = score(*arguments)
    assert (actual, out) == (status, "")
    assert words in note
    assert "Traceback" not in note


def test_a_very_long_text_is_a_text_not_a_file_name(score):
    status, out, _ = score("word " * 2000, "--json")
    assert status == 0
    assert json.loads(out)["tokens"] == len(tiny_tokenizer().encode("word " * 2000))
