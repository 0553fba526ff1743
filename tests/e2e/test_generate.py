"""`conjure generate`, the installed command: what goes where, streams, pipes, ^C, and bad input."""

import io
import json
import signal
import subprocess

import pytest

from conjure.cli.main import _run
from support.models import tiny_checkpoint, tiny_tokenizer
from support.terminal import CONJURE, TIMEOUT_S, Terminal, conjure, environment

ENDLESS = ["--length", "1000000", "--temperature", "0"]  # the tiny model's favourite words go in circles
PROMPTS = ["My dog", "", "猫は ", " two spaces"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("generate") / "model", context_length=64))


@pytest.fixture
def generate(model, capsys):
    """The command in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = _run(["generate", *arguments, "--model", model, "--precision", "float32"])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def library(model):
    """The same model as a library, to compare with."""
    from conjure import load

    return load(model)


class TestOutput:
    def test_the_text_alone_goes_to_stdout_through_a_pipe(self, model, library):
        done = conjure(
            "generate", "My dog", "--model", model, "--seed", "7", "--length", "12", "--precision", "float32"
        )

        (sample,) = library.generate("My dog", seed=7, max_new_tokens=12)
        assert done.returncode == 0
        assert done.stdout == sample.text + "\n"
        assert "seed 7 · 12 tokens in" in done.stderr
        assert done.stderr.endswith(" tokens/s · length\n")
        assert "\x1b" not in done.stderr

    def test_samples_through_a_pipe_have_a_line_between_them(self, generate, library):
        status, out, _ = generate("My dog", "-n", "3", "--seed", "7", "--length", "12")

        samples = library.generate("My dog", seed=7, max_new_tokens=12, num_samples=3)
        assert status == 0
        assert out == f"\n{'=' * 20}\n".join(sample.text for sample in samples) + "\n"

    def test_json_is_an_array_of_everything(self, generate, library):
        _, out, _ = generate("My dog", "-n", "2", "--seed", "7", "--length", "9", "--json", "--logprobs")

        expected = library.generate("My dog", seed=7, max_new_tokens=9, num_samples=2)
        assert json.loads(out) == [
            {
                "prompt": "My dog",
                "index": sample.index,
                "text": sample.text,
                "token_ids": sample.token_ids,
                "logprobs": pytest.approx(sample.logprobs),
                "finish_reason": sample.finish_reason,
                "seed": 7,
            }
            for sample in expected
        ]

    def test_a_drawn_seed_is_told_and_repeats_the_text(self, generate):
        _, first, note = generate("My dog", "--length", "9")
        seed = note.partition("seed ")[2].partition(" ")[0]
        _, again, _ = generate("My dog", "--length", "9", "--seed", seed)
        _, other, _ = generate("My dog", "--length", "9")
        assert first == again != other

    def test_logprobs_are_a_table_of_tokens(self, generate, library):
        _, out, _ = generate("My dog", "--seed", "7", "--length", "4", "--logprobs")

        (sample,) = library.generate("My dog", seed=7, max_new_tokens=4)
        header, *rows = (line.split("\t") for line in out.splitlines())
        assert header == ["position", "token_id", "logprob", "token"]
        assert [int(row[1]) for row in rows] == sample.token_ids
        assert [float(row[2]) for row in rows] == pytest.approx(sample.logprobs, abs=1e-6)

    def test_an_overflow_is_told_beside_the_text(self, generate):
        _, out, note = generate("My dog", "--length", "80", "--seed", "1")
        assert (
            "exceed the context of 64 tokens: when it is full, the model continues from the last 32" in note
        )
        assert "outgrow" not in out


class TestPrompts:
    def test_a_file_holds_a_prompt_per_line_taken_exactly(self, generate, library, tmp_path):
        path = tmp_path / "prompts.txt"
        path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")

        _, out, _ = generate("--prompt-file", str(path), "--seed", "7", "--length", "6", "--json")

        samples = json.loads(out)
        assert [sample["prompt"] for sample in samples] == PROMPTS
        expected = library.generate(PROMPTS, seed=7, max_new_tokens=6)
        assert [sample["token_ids"] for sample in samples] == [sample.token_ids for sample in expected]

    def test_dash_reads_one_prompt_whole(self, generate, monkeypatch):
        prompt = "Two lines,\nthe second без конца"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(prompt.encode())))
        _, out, _ = generate("-", "--length", "3", "--json")
        assert [sample["prompt"] for sample in json.loads(out)] == [prompt]

    def test_stop_takes_escapes_and_repeats(self, generate, library):
        text = library.generate("My dog", seed=7, max_new_tokens=40)[0].text
        stop = text[10:12]
        _, out, note = generate("My dog", "--seed", "7", "--length", "40", "--stop", stop, "--stop", r"\n\n")
        assert out == text[: text.index(stop)] + "\n"
        assert note.endswith("stop\n")

    def test_greedy_needs_no_luck(self, generate, library):
        _, out, _ = generate("My dog", "--temperature", "0", "--length", "12")
        assert out == library.generate("My dog", temperature=0, max_new_tokens=12)[0].text + "\n"


class TestTerminal:
    def test_one_sample_comes_as_it_is_written_after_its_dimmed_prompt(self, model):
        terminal = Terminal(
            "generate", "My dog", "--model", model, "--length", "1000000", "--temperature", "0"
        )
        terminal.read_until("\x1b[2mMy dog\x1b[0m", more=20)
        assert terminal.process.poll() is None, "the text came only when it was all written"

        terminal.process.send_signal(signal.SIGINT)

        assert terminal.close() == 130
        assert "Traceback" not in terminal.shown
        assert "interrupted" in terminal.shown.splitlines()[-1]

    def test_stopping_a_run_keeps_what_there_is(self, model, monkeypatch, tmp_path):
        monkeypatch.setenv("CONJURE_RUN", "1")
        file = tmp_path / "samples.json"
        terminal = Terminal(
            "generate", "My dog", "--model", model, *ENDLESS, "-n", "2", "--output", str(file)
        )
        terminal.read_until("0 of 2 samples · ", more=5)

        terminal.process.send_signal(signal.SIGTERM)

        assert terminal.close() == 128 + signal.SIGTERM
        samples = json.loads(file.read_text())
        assert [sample["finish_reason"] for sample in samples] == ["interrupted"] * 2
        assert all(sample["token_ids"] for sample in samples)

    def test_interrupting_a_batch_prints_what_there_is(self, model):
        terminal = Terminal("generate", "My dog", "--model", model, *ENDLESS, "-n", "2", "--json")
        terminal.read_until("0 of 2 samples · ", more=5)

        terminal.process.send_signal(signal.SIGINT)

        assert terminal.close() == 130
        assert "Traceback" not in terminal.shown
        out = terminal.shown[terminal.shown.rindex("[\r\n") : terminal.shown.rindex("]\r\n") + 1]
        samples = json.loads(out)
        assert {sample["finish_reason"] for sample in samples} == {"interrupted"}
        for sample in samples:
            assert sample["token_ids"]
            assert tiny_tokenizer().decode(sample["token_ids"]).startswith(sample["text"])

    def test_samples_are_numbered_and_control_characters_cannot_act(self, model):
        terminal = Terminal("generate", "\x1b]0;owned\x07", "--model", model, "--length", "9", "-n", "2")
        assert terminal.close() == 0
        assert "── 1 of 2 " in terminal.shown
        assert "── 2 of 2 " in terminal.shown
        assert "\x1b]0;" not in terminal.shown
        assert terminal.shown.count("␛]0;owned␇") == 2


def test_a_reader_that_has_seen_enough_is_no_error(model):
    done = subprocess.run(
        f"'{CONJURE}' generate --model '{model}' -n 99 --json | head -c 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env=environment(),
    )
    assert done.stdout == "[0\n"
    assert "Traceback" not in done.stderr


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--temperature", "-1"], "--temperature must be at least 0, not -1.0"),
            (["--top-p", "7"], "--top-p must be above 0 and at most 1, not 7.0"),
            (["--seed", "-3"], "--seed must be at least 0, not -3"),
            (
                ["--length", "0", "-n", "0"],
                "--length must be at least 1, not 0; -n must be at least 1, not 0",
            ),
            (["--stop", ""], "--stop contains an empty string"),
            (["--stream", "-n", "2"], "--stream can only show a single sample"),
            (["--temperature", "hot"], "'hot' is not a valid float"),
            (["--prompt-file", "nowhere.txt"], "'nowhere.txt' does not exist"),
            (["x", "--prompt-file", __file__], "PROMPT and --prompt-file cannot both be given"),
        ],
    )
    def test_each_fault_is_one_sentence_with_status_2(self, generate, arguments, words):
        status, out, note = generate(*arguments)
        assert (status, out) == (2, "")
        assert words in note
        assert "Traceback" not in note

    @pytest.mark.parametrize(
        ("content", "words"), [(b"", "is empty"), (b"caf\xe9\n", "is not UTF-8 text: byte 3 cannot be read")]
    )
    def test_a_prompt_file_that_holds_no_prompts(self, generate, tmp_path, content, words):
        path = tmp_path / "prompts.txt"
        path.write_bytes(content)
        status, _, note = generate("--prompt-file", str(path))
        assert status == 1
        assert words in note

    def test_overflow_error_names_the_counts(self, generate):
        status, _, note = generate("My dog", "--length", "64", "--on-overflow", "error")
        prompt = len(tiny_tokenizer().encode("My dog"))
        assert status == 1
        assert f"a prompt of {prompt} and 64 new tokens make {prompt + 64}, more than the model's" in note
        assert f"hint: generate at most {64 - prompt} tokens" in note
