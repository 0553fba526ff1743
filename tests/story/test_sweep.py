"""`conjure sweep`: what is typed, what is shown, what is recorded."""

import csv
import io
import json
import sys

import pytest

from conjure.cli.main import _run
from conjure.sweeps.space import log_uniform
from support.casting import wait_until
from support.models import tiny_checkpoint
from support.texts import ONE_LINERS

pytestmark = pytest.mark.slow
REPORT = (
    "from conjure import log_metric; import sys; log_metric('loss', float(sys.argv[1]) + len(sys.argv[2]))"
)
# Reports a value at each step until it is stopped, or for ten steps if it is the good one.
CLIMB = """
import sys, time
from conjure import log_metric

value = float(sys.argv[1])
open("kept.txt", "w").write("kept")
for step in range(1, 11 if value < 1 else 1_000_000):
    log_metric("loss", value, step=step)
    time.sleep(0.05)
"""


@pytest.fixture
def sweep(client, capsys):
    """The command in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = _run(["sweep", *arguments])
        return status, *capsys.readouterr()

    return run


def python(script: str, *arguments: str) -> list[str]:
    return ["--", sys.executable, "-c", script, *arguments]


@pytest.mark.parametrize(
    ("where", "said"),
    [(["--on", "nowhere"], "there is no executor 'nowhere'"), (["--cpus", "5000"], "--cpus 5000")],
)
def test_what_no_trial_could_ever_do_is_refused_at_once(sweep, where, said):
    space = ["--param", "x=1", "--metric", "loss", "--minimize"]
    status, _, err = sweep("grid", *space, *where, *python(REPORT, ":x:", "a"))
    assert status == 2
    assert said in err
    assert json.loads(sweep("ls", "--json")[1]) == []


def test_a_grid_from_the_first_trial_to_the_best(sweep, client, capsys):
    space = ["--param", "x=1.50,07", "--param", "y=aa"]
    done = sweep("grid", "-j", "2", *space, "--metric", "loss", "--minimize", *python(REPORT, ":x:", ":y:"))
    assert done[0] == 0
    assert "trial 0 (run 1): complete · x=1.50 y=aa · loss 3.5 at step 0" in done[2]
    rows = [line.split() for line in done[1].splitlines() if "complete" in line]
    assert rows[1:] == [
        ["*", "0", "1", "1.50", "aa", "complete", "3.5", "0"],
        ["1", "2", "07", "aa", "complete", "9", "0"],
    ]

    shown = json.loads(sweep("show", "1", "--json")[1])
    assert shown["trials"] == [
        {
            "trial": 0,
            "run": 1,
            "params": {"x": "1.50", "y": "aa"},
            "status": "complete",
            "value": 3.5,
            "step": 0,
        },
        {
            "trial": 1,
            "run": 2,
            "params": {"x": "07", "y": "aa"},
            "status": "complete",
            "value": 9.0,
            "step": 0,
        },
    ]
    assert (shown["state"], shown["best"]["runs"], shown["wanted"]) == ("complete", [1], 2)
    assert sweep("best", "1", "--command")[1].endswith("1.50 aa\n")
    assert "loss against x" in sweep("show", "1", "--plot")[1]
    assert list(csv.DictReader(io.StringIO(sweep("export", "1", "--csv")[1])))[1]["x"] == "07"
    assert client.get(1).record.labels == ("sweep-1",)

    capsys.readouterr()
    assert _run(["ps", "--csv"]) == 0
    listed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["run"], row["param.x"], row["metric.loss"]) for row in listed] == [
        ("2", "07", "9.0"),
        ("1", "1.50", "3.5"),
    ]
    assert client.runs().rows()[0]["metric.loss"] == 9.0


def test_trials_that_fail_alike_end_the_sweep_with_their_last_lines(sweep, client):
    values = ",".join(map(str, range(9)))
    status, out, _ = sweep("grid", "--param", f"x={values}", "--", "sh", "-c", "echo :x: went wrong; exit 3")
    assert status == 1
    assert (
        "The first 3 trials failed in the same way (exit status 3); the last lines of run 3:\n2 went wrong"
        in out
    )
    assert len(client.runs()) == 3
    status, _, err = sweep("best", "1")
    assert (status, "sweep 1 has no metric" in err) == (1, True)


def test_a_metric_that_is_never_reported_is_told_after_the_first_trial(sweep, client):
    metric = ["--metric", "accuracy", "--maximize"]
    status, out, _ = sweep("grid", "--param", "x=1,2,3", *metric, *python(REPORT, ":x:", "y"))
    assert status == 1
    assert "Run 1 completed without reporting the metric 'accuracy'; it reported loss" in out
    assert len(client.runs()) == 1


def test_a_sweep_that_was_stopped_goes_on_to_its_end_with_the_same_proposals(sweep, client, tmp_path):
    space = ["-n", "2", "--param", "x=1:9", "--", "sh", "-c", f"test -e {tmp_path}/go || sleep 60; : :x:"]
    proposed = sweep("random", "--dry-run", *space)[1].splitlines()
    assert sweep("random", "-b", *space)[0] == 0
    wait_until(lambda: client.runs(), "a trial was started")
    assert sweep("stop", "1")[1] == "Sweep 1: stopped, 1 of its trials stopped\n"
    (stopped,) = client.runs()
    assert stopped.end_reason == "stop_requested"
    (tmp_path / "go").touch()
    status, _, err = sweep("resume", "1")
    assert status == 0
    assert "trial 0 (run 2): complete" in err
    trials = client.get_sweep(1).view.trials
    assert [(trial.run, trial.status) for trial in trials] == [(2, "complete"), (3, "complete")]
    assert [line.rsplit(" ", 1)[1].strip("'") for line in proposed] == [trial.params["x"] for trial in trials]
    assert trials[0].params == stopped.record.spec.params


def test_a_trial_that_does_worse_is_pruned_and_keeps_its_outputs(sweep, client):
    metric = ["--metric", "loss", "--minimize", "--prune", "asha"]
    status, out, _ = sweep("grid", "--param", "x=0.5,7", *metric, *python(CLIMB, ":x:"))
    assert status == 0
    assert "Pruning ended 1 trial early" in out
    pruned = client.get(2)
    assert (pruned.status, pruned.end_reason) == ("stopped", "pruned")
    assert pruned.cp("kept.txt", "copied").read_text() == "kept"
    assert json.loads(sweep("show", "1", "--json")[1])["trials"][1]["status"] == "pruned"


def test_a_fine_tune_is_the_trial_itself_and_its_options_are_filled(sweep, client, folder, tmp_path):
    (folder / "jokes.txt").write_text("\n".join(ONE_LINERS) + "\n")
    model = str(tiny_checkpoint(tmp_path / "base"))
    words = ["conjure", "finetune", "jokes.txt", "--model", model, "--split", "lines", "--block-size", "16"]
    metric = ["--metric", "held_out_loss", "--minimize"]
    first = client.run("true").wait().number
    given = ["--param", "lr=1e-3", *metric, "--after", str(first), "--retry", "2", "--retry-on", "failed"]
    status, out, _ = sweep("grid", *given, "--", *words, "--max-steps", "2", "--cpus", "1")
    assert status == 0, out
    run, _ = client.runs()
    record = run.record
    assert record.spec.after == (first,)
    assert (record.spec.retry, record.spec.retry_on, record.spec.resources.cpus) == (2, "failed", 1)
    assert (record.spec.kind, record.mounts[0].target) == ("finetune", "jokes.txt")
    assert "--learning-rate=:lr:" in record.spec.command
    (trial,) = json.loads(sweep("show", "1", "--json")[1])["trials"]
    assert trial["params"] == {"lr": "1e-3"}
    assert trial["value"] == run.metrics("held_out_loss")[0].value


def test_a_sweep_of_fine_tunes_from_python(client, folder, tmp_path):
    (folder / "jokes.txt").write_text("\n".join(ONE_LINERS) + "\n")
    sweep = client.sweep_finetune(
        "jokes.txt",
        {"learning_rate": log_uniform(1e-4, 1e-2), "block_size": [16]},
        model=tiny_checkpoint(tmp_path / "base"),
        finetune={"split": "lines", "max_steps": 1, "mask_records": True},
        trials=1,
        method="random",
    )
    command = sweep.stop().view.request.spec.command
    assert command[-2:] == ("--learning-rate=:learning_rate:", "--block-size=:block_size:")
    assert {"--mask-records", "--max-steps=1", "--split=lines"} < set(command)


def test_the_place_that_a_sweep_or_its_command_names_is_where_trials_are_to_run(sweep):
    for sweeps, its_commands in ((["--on", "nowhere"], []), ([], ["--on", "nowhere"])):
        command = ["conjure", "generate", "a text", *its_commands]
        status, out, err = sweep("grid", "--param", "seed=1", *sweeps, "--", *command)
        assert status == 2
        assert "there is no executor 'nowhere'" in out + err


def test_a_prompt_from_standard_input_is_that_of_every_trial(sweep, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"My dog")))
    status, out, _ = sweep("grid", "--dry-run", "--param", "seed=1,2", "--", "conjure", "generate", "-")
    assert status == 0
    assert [line.rpartition(" -- ")[2] for line in out.splitlines()] == ["'My dog'", "'My dog'"]


@pytest.mark.parametrize("words", [[], [":prompt:"], ["--prompt", ":prompt:"]])
def test_prompts_are_values_of_a_sweep(sweep, words):
    given = ["--param", "prompt=Once,The end", "--param", "temperature=0.5", "--", "conjure", "generate"]
    status, out, _ = sweep("grid", "--dry-run", *given, "--seed", "1", *words)
    assert status == 0
    assert out.splitlines() == [
        f"conjure generate --model sprite --save --seed=1 --temperature=0.5 -- {prompt}"
        for prompt in ("Once", "'The end'")
    ]


def test_part_of_a_prompt_is_a_value_of_a_sweep(sweep):
    given = ["--param", "who=cow,dog", "--", "conjure", "generate", "--seed", "1", "My :who: said"]
    _, out, _ = sweep("grid", "--dry-run", *given)
    assert [line.rpartition(" -- ")[2] for line in out.splitlines()] == ["'My cow said'", "'My dog said'"]


def test_settings_of_runs_apply_to_trials_that_are_commands_of_the_users(sweep, client, tmp_path, home):
    home.create().config_file.write_text("[run]\ncpus = 0.5\n")
    assert sweep("grid", "--param", "x=1", "--", "echo", ":x:")[0] == 0
    assert client.sweep("echo :x:", {"x": [1]}).wait().trials[0].run == 2
    assert [client.get(number).record.spec.resources.cpus for number in (1, 2)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grid", "--param", "x=1", "--", "echo", ":y:"], ":x: is not in the command"),
        (["grid", "--param", "lrr=1", "--", "conjure", "finetune", "x.csv"], "no option of the name 'lrr'"),
        (
            ["grid", "--param", "epochs=1,0", "--", "conjure", "finetune", __file__],
            "--epochs must be above 0, not 0.0",
        ),
        (["grid", "--param", "d=1", "--", "conjure", "finetune", ":d:"], "DATA cannot have a placeholder"),
        (
            ["grid", "--param", "seed=1", "--pip", "tqdm", "--", "conjure", "score", "a text"],
            "--pip cannot be",
        ),
        (
            ["grid", "--param", "seed=1", "--checkpoint", "x", "--", "conjure", "score", "a text"],
            "--checkpoint cannot be",
        ),
        (
            ["grid", "--param", "seed=1", "--sandbox", "--", "conjure", "score", "a text"],
            "--sandbox cannot be",
        ),
        (["grid", "--param", "adapter=a,b", "--", "conjure", "score", "x"], "--adapter cannot have"),
        *(
            (
                ["grid", "--param", f"{name}=1,2", "--", "conjure", "finetune", __file__],
                f"--{name} cannot have a placeholder: all trials run in the same place",
            )
            for name in ("cpus", "gpus", "retry", "distributed", "on")
        ),
        (
            ["grid", "--param", "memory=1GB,2GB", "--", "conjure", "generate", "x"],
            "--memory cannot have a placeholder: all trials run in the same place",
        ),
        (
            ["grid", "--param", "x=a,b", "--", "conjure", "score", ":x:"],
            "TEXT|FILES... cannot have a placeholder: all trials score the same",
        ),
        (
            ["grid", "--param", "x=a,b", "--", "conjure", "generate", "--stop", ":x:", "--stop", "c", "x"],
            "--stop cannot have a placeholder: it is given several times",
        ),
        (
            ["grid", "--param", "prompt=a,-", "--", "conjure", "generate"],
            "standard input cannot be a prompt of a sweep",
        ),
        (
            ["random", "-n", "2", "--param", "top-k=4:8", "--", "conjure", "generate", "x"],
            "is not a valid integer",
        ),
        (
            ["grid", "--param", "seed=1", "--base", "none", "--", "conjure", "score", "a text"],
            "--base cannot be",
        ),
        (
            ["grid", "--param", "seed=1", "--", "conjure", "generate", "x", "-o", "out.json"],
            "--output cannot be given to the command of a sweep",
        ),
        (
            ["grid", "--param", "seed=1", "--", "conjure", "finetune", "--no-run", __file__],
            "--no-run cannot be given to the command of a sweep",
        ),
        (["grid", "--param", "x=1"], "as in `conjure sweep grid --param x=1,2 -- echo :x:`"),
        (["grid", "--param", "x=1", "--", " "], "as in `conjure sweep grid --param x=1,2 -- echo :x:`"),
        (["show", "7"], "there is no sweep 7; there are no sweeps yet"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_starts_nothing(sweep, client, arguments, said):
    status, _, err = sweep(*arguments)
    assert status != 0
    assert err.startswith("error: ")
    assert said in err
    assert client.runs() == []
