"""The generation script: flags in, samples out, one sentence for each mistake."""

import io

import pytest

from conjure.compat.run_generation import main
from support.models import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("compat") / "model", context_length=48))


@pytest.fixture
def generation(model, capsys):
    """The script in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["--model_type=gpt2", f"--model_name_or_path={model}", *arguments])
        return status, *capsys.readouterr()

    return run


class TestSamples:
    def test_the_same_command_gives_the_same_text(self, generation):
        first = generation("--prompt= ")
        assert first == generation("--prompt= ")
        assert first != generation("--prompt= ", "--seed=43")

    def test_the_stop_token_cuts_each_sample_where_it_first_comes(self, generation):
        greedy = ["--prompt=My dog", "--length=30", "--temperature=0"]
        _, whole, _ = generation(*greedy)
        stop = whole[12:14]
        _, cut, _ = generation(*greedy, f"--stop_token={stop}")
        assert cut == whole[: whole.index(stop)] + "\n"
        _, same, _ = generation(*greedy, "--stop_token=never seen")
        assert same == whole

    def test_the_names_of_december_and_abbreviations_work(self, generation):
        _, october, _ = generation("--prompt=a", "--top_k=3", "--top_p=0.5", "--xlm_lang=en")
        _, december, _ = generation("--prompt=a", "--k=3", "--p=0.5", "--xlm_language=en", "--temp=1")
        assert october == december

    def test_flags_without_effect_have_none(self, generation):
        _, plain, _ = generation("--prompt=a")
        _, padded, _ = generation("--prompt=a", "--padding_text=Long ago", "--no_cuda")
        assert plain == padded

    def test_model_types_have_no_case(self, generation):
        assert generation("--model_type=GPT2", "--prompt=a", "--length=1")[0] == 0


class TestLength:
    @pytest.mark.parametrize("length", ["-1", "48"])
    def test_a_whole_context_fits_after_one_token(self, generation, length):
        status, _, err = generation("--prompt= ", f"--length={length}")
        assert (status, err) == (0, "")

    def test_a_longer_one_is_clipped_aloud(self, generation):
        _, clipped, err = generation("--prompt= ", "--length=1000")
        assert err == "--length 1,000 exceeds the context: 48 tokens are generated.\n"
        assert clipped == generation("--prompt= ", "--length=48")[1]

    def test_sliding_is_told(self, generation):
        status, _, err = generation("--prompt=My dog ate the clock", "--length=48")
        assert status == 0
        assert "exceed the context of 48 tokens: when it is full, the model continues from the last 24" in err

    def test_nothing_is_a_length(self, generation):
        assert generation("--prompt=a", "--length=0", "--num_samples=2") == (0, "\n\n", "")


class TestTyping:
    def test_each_line_is_a_prompt_until_the_input_ends(self, generation, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("My dog\n\n \n"))
        status, out, err = generation("--length=5")

        assert status == 0
        assert out.startswith(generation("--prompt=My dog", "--length=5")[1])
        assert err.count("Model prompt >>> ") == 4
        assert "type a space to start a document" in err

    def test_randomness_goes_on_from_prompt_to_prompt(self, generation, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("a\na\n"))
        _, out, _ = generation("--length=12")
        first = generation("--length=12", "--prompt=a")[1]
        assert out.startswith(first)
        assert out != first * 2

    def test_a_line_that_is_no_text(self, generation, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
        status, _, err = generation()
        assert status == 1
        assert "is not UTF-8 text" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model_type=xlnet"], "--model_type is 'xlnet'; conjure runs GPT-2 models"),
        (["--num_samples=0"], "--num_samples must be at least 1, not 0"),
        (["--repetition_penalty=0"], "--repetition_penalty must be a number above 0, not 0.0"),
        (
            ["--temperature=nan", "--top_p=inf"],
            "--temperature must be a number, not nan; --top_p must be a number, not inf",
        ),
        (["--seed=-1"], "--seed must be an integer from 0 to 4294967295, not -1"),
        (["--length=long"], "argument --length: invalid int value: 'long'"),
        (["--lines"], "unrecognized arguments: --lines"),
    ],
)
def test_each_mistake_is_one_sentence_with_status_2(generation, arguments, sentence):
    status, out, err = generation("--prompt=a", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert "Traceback" not in err


def test_a_model_that_is_not_there(capsys):
    status = main(["--model_type=gpt2", "--model_name_or_path=./nowhere", "--prompt=a"])
    assert status == 1
    assert "model folder ./nowhere does not exist" in capsys.readouterr().err


def test_a_missing_model_flag(capsys):
    assert main(["--model_type=gpt2"]) == 2
    assert "--model_name_or_path" in capsys.readouterr().err


def test_too_small_a_temperature_is_no_traceback(generation):
    status, _, err = generation("--prompt=a", "--temperature=1e-44")
    assert status == 1
    assert "--temperature 1e-44 is too small" in err
