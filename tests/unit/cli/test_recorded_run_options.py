"""Options that a command cannot honour are refused; none is dropped without a word."""

import json

import pytest

from conjure.cli.main import _run
from conjure.runs.database.sqlite import SqliteDatabase
from support.casting import add_run


@pytest.fixture
def refused(capsys):
    """What is said of a command line that is wrong."""

    def run(*arguments):
        assert _run(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()[0].removeprefix("error: ")

    return run


def test_a_resumed_fine_tune_takes_no_other_options_of_training(refused):
    typed = ("--epochs", "60", "--lr", "1e-4", "--model", "gpt2", "--label", "best", "--distributed", "2")
    assert refused("finetune", "--resume", "runs/2", *typed) == (
        "--resume continues with the interrupted run's model and options; --model, --epochs, --lr cannot be"
        " given"
    )


@pytest.mark.parametrize("typed", [("jokes.csv", "--resume", "runs/2"), ("--resume",)])
def test_a_resumed_fine_tune_takes_a_run_and_no_data(refused, typed):
    assert refused("finetune", *typed) == "--resume takes a run and no data"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--no-run", "-o", "out"), "it cannot be combined with --no-run"),
        (("--dry-run",), "it cannot be combined with --dry-run"),
    ],
)
def test_a_run_is_resumed_by_a_run_alone(refused, folder, typed, said):
    (folder / "out.training").mkdir()
    told = refused("finetune", "--resume", "runs/3", *typed)
    assert told == f"--resume runs/3 records a new run; {said}"


def test_a_command_inside_a_run_resumes_no_other_run(refused, monkeypatch):
    monkeypatch.setenv("CONJURE_RUN", "5")
    assert refused("finetune", "jokes.txt", "--resume", "runs/3") == (
        "--resume runs/3 records a new run, which a command inside a run cannot do"
    )


UNRECORDED = {
    "generate": ("generate", "Hi"),
    "score": ("score", "--text", "Hi"),
    "finetune": ("finetune", "--no-run", "jokes.txt"),
    "serve": ("serve",),
}


@pytest.mark.parametrize("verb", UNRECORDED)
@pytest.mark.parametrize(
    "given",
    [
        ("--background",),
        ("--label", "best"),
        ("--description", "x"),
        ("--project", "x"),
        ("--cpus", "2"),
        ("--gpus", "1"),
        ("--memory", "8GB"),
        ("--retry", "1"),
        ("--on", "gpu"),
    ],
)
def test_options_of_a_run_are_refused_where_none_is_recorded(refused, verb, given):
    assert refused(*UNRECORDED[verb], *given) == f"{given[0]} applies only to recorded runs"


@pytest.mark.parametrize(
    ("command", "file"), [(("generate", "Hi"), "samples.json"), (("score", "--text", "Hi"), "score.json")]
)
def test_a_recorded_command_writes_no_file_of_its_own(refused, command, file):
    assert refused(*command, "--save", "-o", "out.json") == (
        f"-o and --save cannot be combined: a run writes runs/N/{file}"
    )


def test_compared_models_are_named_once(refused):
    said = refused("score", "--model", "gpt2", "--compare", "sprite", "runs/1", "x")
    assert said == "--model cannot be combined with --compare"


@pytest.fixture
def printed(capsys):
    """What a command prints."""

    def run(*arguments):
        assert _run(list(arguments)) == 0
        return capsys.readouterr().out

    return run


def test_all_runs_can_be_limited_too(home, printed):
    with SqliteDatabase.open(home.create()) as store:
        for _ in range(21):
            add_run(store)
    assert len(json.loads(printed("ps", "--json"))) == 20
    assert len(json.loads(printed("ps", "-a", "--json"))) == 21
    assert len(json.loads(printed("ps", "-a", "-n", "5", "--json"))) == 5


@pytest.mark.parametrize(
    "command", [("config", "get", "model"), ("models", "list"), ("models", "info", "sprite")]
)
def test_json_may_precede_a_subcommand(printed, command):
    group, *words = command
    assert json.loads(printed(group, "--json", *words)) == json.loads(printed(*command, "--json"))


def test_json_is_refused_before_a_subcommand_that_has_none(refused):
    assert refused("config", "--json", "set", "model", "gpt2") == "`conjure config set` prints no JSON"


def test_the_trials_of_a_dry_run_as_json(printed, folder):
    line = ("sweep", "grid", "--dry-run", "--json", "--param", "x=1,2", "--", "echo", ":x:")
    assert json.loads(printed(*line)) == {
        "trial_count": 2,
        "trials": [
            {"params": {"x": "1"}, "command": "echo 1"},
            {"params": {"x": "2"}, "command": "echo 2"},
        ],
    }
