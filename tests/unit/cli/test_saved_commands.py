"""`--save-command` and `--from-file`: options and arguments of a command in a file."""

import tomllib
from dataclasses import replace
from pathlib import Path

import click
import pytest

from conjure.cli.commands import finetune, generate, run, sweep
from conjure.cli.main import _run
from conjure.cli.saved_commands.options_of_run import values_of_run
from conjure.core.units import parse_duration
from conjure.errors import UsageError
from conjure.runs.schema.record import CodeFacts, RunRecord
from conjure.runs.schema.spec import CodeChoice, ComputeRequest, EnvironmentChoice, Mount, RunSpec


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys):
    def run(*arguments):
        status = _run(list(arguments))
        return status, capsys.readouterr().err

    return run


def parsed(command, *words):
    """What a command takes the words for."""
    return command.make_context("run", list(words)).params


def saved(name):
    return tomllib.loads(Path(name).read_text())


def test_a_saved_run_is_parsed_as_it_was_typed(call, monkeypatch):
    monkeypatch.setenv("API_KEY", "s3cret-value")
    Path("data.txt").touch()
    words = ["-e", "A=1=2", "--param", "lr=0.1", "--timeout", "90m", "--cpus", "1.5", "--committed"]
    words += ["--image", "localhost/x:1", "--apt", "tree", "--apt", "g++", "--pip", "tqdm"]
    words += ["-m", "./data.txt:d:ro", "--stop-condition", "loss > 9", "--no-output", "*.tmp"]
    command = ["python", "-c", 'print("a\\b\x7f", :lr:)', "--pip", "two words", "ü"]
    status, said = call("run", *words, "--save-command", "train.toml", "--", *command)
    assert (status, said) == (0, "train.toml written; run it with: conjure run --from-file train.toml\n")
    typed, read = (
        parsed(run.command, *words, "--", *command),
        parsed(run.command, "--from-file", "train.toml"),
    )
    assert read == typed


def test_a_shell_line_is_one_text(call):
    assert call("run", "--save-command", "a.toml", "echo $HOME; true")[0] == 0
    assert saved("a.toml") == {"command": "echo $HOME; true"}
    assert parsed(run.command, "--from-file", "a.toml")["command"] == ("echo $HOME; true",)


def test_a_secret_variable_is_saved_by_its_name(call, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    assert (
        call("run", "-e", "HF_TOKEN=hf_x9x9x9x9x9x9", "-e", "N=3", "--save-command", "a.toml", "true")[0] == 0
    )
    assert saved("a.toml")["env"] == ["HF_TOKEN", "N=3"]
    assert "hf_" not in Path("a.toml").read_text()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["curl -u me:s3cret-word http://x"], "the command"),
        (["--param", "password=s3cret-word", "echo :password:"], "--param password"),
    ],
)
def test_a_secret_elsewhere_is_refused(call, words, where):
    status, said = call("run", "--save-command", "a.toml", *words)
    assert status == 125
    assert f"there is a secret in {where}" in said
    assert not Path("a.toml").exists()


def test_a_file_is_not_overwritten(call):
    Path("a.toml").write_text("# mine\n")
    status, said = call("run", "--save-command", "a.toml", "true")
    assert (status, "a.toml exists" in said) == (125, True)
    assert Path("a.toml").read_text() == "# mine\n"


def test_a_command_that_is_no_text_is_refused(call):
    status, said = call("run", "--save-command", "a.toml", "echo", "\udcff")
    assert (status, "not UTF-8" in said) == (125, True)
    assert not Path("a.toml").exists()


def test_what_is_typed_wins_over_the_file():
    Path("a.toml").write_text(
        'timeout = "1h"\npip = ["a", "b"]\nenv = ["A=1", "B=2"]\nparam = ["x=1"]\ncommand = ["echo", "1"]\n'
    )
    read = parsed(run.command, "--from-file", "a.toml", "--timeout", "2h", "--pip", "c", "-e", "B=3", "ls")
    assert (read["timeout"], read["pip"], read["param"]) == ("2h", ("c",), ("x=1",))
    assert read["env"] == ("A=1", "B=3")
    assert read["command"] == ("ls",)


def test_options_may_follow_the_file_and_precede_a_lone_dash_dash():
    Path("a.toml").write_text('command = ["echo", "--", "-x"]\n')
    assert parsed(run.command, "--from-file", "a.toml", "--")["command"] == ("echo", "--", "-x")


def test_the_prompt_of_generate_is_one_key_for_both_of_its_ways():
    Path("a.toml").write_text('prompt = "from the file"\nlength = 5\nstream = false\n')
    read = parsed(generate.command, "--from-file", "a.toml")
    assert (read["prompt"], read["max_new_tokens"], read["stream"]) == ("from the file", 5, False)
    read = parsed(generate.command, "--from-file", "a.toml", "--prompt", "typed")
    assert (read["prompt"], read["prompt_option"]) == (None, "typed")


def test_other_names_of_an_option_are_known():
    Path("a.toml").write_text('github-url = "https://x/y"\ncommand = "true"\n')
    assert parsed(run.command, "--from-file", "a.toml")["git_url"] == "https://x/y"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('tiemout = "3m"', "no option 'tiemout'; did you mean timeout?"),
        ('stop_condition = "loss > 9"', "no option 'stop_condition'; did you mean stop-condition?"),
        ('data = "x"', "`conjure run` has no option 'data'"),
        ("timeout = true", "timeout is true; allowed: a string or a number"),
        ('timeout = ["1h", "2h"]', "timeout is a list; allowed: a string or a number"),
        ("pip = [1, [2]]", "pip is a list; allowed: a string, a number or a list of them"),
        ("env = {A = 1}", "env is a table; allowed: a string, a number or a list of them"),
        ('committed = "yes"', "committed is 'yes'; allowed: true, false"),
        ('git-url = "a"\ngithub-url = "b"', "another name of the same option are both set"),
        ("from-file = 'b.toml'", "no option 'from-file'"),
        ("command = ", "not a TOML file"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(call, content, message):
    Path("a.toml").write_text(content)
    status, said = call("run", "--from-file", "a.toml", "true")
    assert status == 125
    assert said.startswith("error: a.toml: ") or said.startswith("error: a.toml is ")
    assert message in said
    assert "Traceback" not in said


def test_a_missing_file_and_a_folder_are_said(call):
    assert "error: no.toml does not exist" in call("run", "--from-file", "no.toml")[1]
    assert "error: . cannot be read: Is a directory" in call("run", "--from-file", ".")[1]


def test_what_is_set_ranks_below_the_file(call):
    Path("conjure.toml").write_text('[run]\ntimeout = "5h"\ncpus = 1\n')
    Path("a.toml").write_text('timeout = "1h"\ncommand = "true"\n')
    assert call("run", "--from-file", "a.toml", "--save-command", "b.toml")[0] == 0
    assert saved("b.toml") == {"timeout": "1h", "cpus": 1.0, "command": "true"}


def test_a_saved_finetune_and_generate_are_parsed_as_typed(call):
    Path("jokes.txt").write_text("One.\n\nTwo.\n\nThree.\n")
    words = ["jokes.txt", "--split", "paragraphs", "--learning-rate", "3e-4", "--epochs", "2"]
    assert call("finetune", *words, "--save-command", "f.toml")[0] == 0
    assert parsed(finetune.command, "--from-file", "f.toml") == parsed(finetune.command, *words)
    words = ["Hello\nyou", "-n", "2", "--stop", "\\n", "--top-p", "0.9", "--no-stream"]
    assert call("generate", *words, "--save-command", "g.toml")[0] == 0
    assert parsed(generate.command, "--from-file", "g.toml") == parsed(generate.command, *words)


def test_the_date_of_a_chat_is_saved(call):
    assert call("generate", "--chat", "--chat-date", "2026-02-01", "Hi", "--save-command", "g.toml")[0] == 0
    assert saved("g.toml")["chat-date"] == "2026-02-01"
    read = parsed(generate.command, "--from-file", "g.toml")
    assert read == parsed(generate.command, "--chat", "--chat-date", "2026-02-01", "Hi")


def test_a_saved_sweep_is_parsed_as_typed(call):
    words = ["--param", "lr=0.1,0.2", "--param", "x=1", "--metric", "loss", "--minimize", "-n", "3"]
    command = ["--", "python", "t.py", ":lr:", ":x:"]
    status, said = call("sweep", "random", *words, "--save-command", "s.toml", *command)
    assert (status, said) == (0, "s.toml written; run it with: conjure sweep random --from-file s.toml\n")
    assert saved("s.toml")["minimize"] is True
    random = sweep.command.commands["random"]
    assert parsed(random, "--from-file", "s.toml") == parsed(random, *words, *command)
    read = parsed(random, "--from-file", "s.toml", "--maximize", "--param", "x=2")
    assert (read["direction"], read["parameters"]) == ("maximize", ("lr=0.1,0.2", "x=2"))


def test_a_mistake_is_told_before_anything_is_saved(call):
    assert call("run", "--timeout", "90", "--save-command", "a.toml", "true")[0] == 125
    assert call("finetune", "missing.txt", "--save-command", "a.toml")[0] != 0
    assert not Path("a.toml").exists()


# ---- --deps-from-env ---------------------------------------------------------------------------------------


def test_deps_from_env_is_base_current(call):
    status, said = call("run", "--deps-from-env", "--base", "none", "true")
    assert (status, "--deps-from-env and --base none cannot be combined" in said) == (125, True)
    Path("conjure.toml").write_text('[run]\nbase = "none"\n')
    assert call("run", "--deps-from-env", "--json", "true")[0] == 0


# ---- the command of a recorded run -------------------------------------------------------------------------


def record(spec, **facts):
    return RunRecord(7, spec, **facts)


def test_a_recorded_run_gives_back_its_options(tmp_path):
    spec = RunSpec(
        command=("python", "t.py", "--lr", ":lr:"),
        folder=tmp_path,
        environment=EnvironmentChoice(
            pip=("tqdm",),
            requirements="numpy==2.1.0 # pinned\n\n",
            image="localhost/x:1",
            apt=("tree", "g++"),
        ),
        variables={"N": "3", "HF_TOKEN": "hf_0123456789abcdef"},
        mounts=(Mount("runs/2/a:b.txt", "d.txt", read_only=True),),
        resources=ComputeRequest(memory_bytes=8_000_000_000),
        timeout_s=5400.0,
        params={"lr": "0.1"},
        labels=("a",),
    ).stored()
    clean = CodeFacts("tree", commit="c0ffee")
    verb, values = values_of_run(record(spec, code=clean))
    assert verb == "run"
    assert values == {
        "mount": (r"runs/2/a\:b.txt:d.txt:ro",),
        "pip": ("tqdm", "numpy==2.1.0"),
        "image": "localhost/x:1",
        "apt": ("tree", "g++"),
        "env": ("N=3", "HF_TOKEN"),
        "commit": "c0ffee",
        "label": ("a",),
        "param": ("lr=0.1",),
        "timeout": "5400s",
        "memory": "8000000000B",
        "command": ("python", "t.py", "--lr", ":lr:"),
    }
    assert Mount.parse(values["mount"][0]) == spec.mounts[0]
    assert "commit" not in values_of_run(record(spec, code=replace(clean, dirty=True)))[1]


def test_a_recorded_run_gives_back_where_and_how_often_it_is_tried(tmp_path):
    spec = RunSpec(
        command=("ls",),
        folder=tmp_path,
        on="gpu",
        resources=ComputeRequest(1.5, 2),
        retry=3,
        retry_on="failed",
        checkpoint=("state/",),
        timeout_s=14 * 86400.0,
    )
    values = values_of_run(record(spec))[1]
    assert values == {
        "on": "gpu",
        "cpus": 1.5,
        "gpus": 2,
        "retry": 3,
        "retry-on": "failed",
        "checkpoint": ("state/",),
        "timeout": "1209600s",
        "command": "ls",
    }
    assert parse_duration(str(values["timeout"])) == spec.timeout_s


def test_a_recorded_finetune_gives_back_where_and_how_often_it_is_tried(tmp_path):
    words = ("conjure", "finetune", "a.txt", "--model", "sprite")
    asked = ComputeRequest(2.0, 1, 8_000_000_000)
    spec = RunSpec(words, tmp_path, kind="finetune", on="gpu", retry=2, resources=asked, checkpoint=("x",))
    values = values_of_run(record(spec))[1]
    assert {name: values[name] for name in ("on", "retry", "cpus", "gpus", "memory")} == {
        "on": "gpu",
        "retry": 2,
        "cpus": 2.0,
        "gpus": 1,
        "memory": "8000000000B",
    }
    assert "checkpoint" not in values


def test_a_recorded_run_of_a_repository_keeps_its_commit(tmp_path):
    spec = RunSpec(command=("ls",), folder=tmp_path, code=CodeChoice(git_url="https://x/y", git_ref="main"))
    values = values_of_run(record(spec, code=CodeFacts("tree", commit="c0ffee")))[1]
    assert values == {"git-url": "https://x/y", "git-ref": "c0ffee", "command": "ls"}


def test_a_recorded_finetune_names_its_inputs_as_they_were_given(tmp_path):
    words = ("conjure", "finetune", "a.txt", "2-a.txt", "--model", "model", "--epochs=2")
    inputs = (("/data/a.txt", "a.txt"), ("runs/2/a.txt", "2-a.txt"), ("runs/3/output", "model"))
    mounts = tuple(Mount(source, target, read_only=True) for source, target in inputs)
    spec = RunSpec(words, tmp_path, kind="finetune", mounts=mounts, description="conjure 0.2.0")
    assert values_of_run(record(spec)) == (
        "finetune",
        {"data": ("/data/a.txt", "runs/2/a.txt"), "model": "runs/3/output", "epochs": "2"},
    )


def test_a_trial_of_a_sweep_is_saved_with_its_values(tmp_path):
    words = ("conjure", "finetune", "a.txt", "--model", "sprite", "--learning-rate=:learning-rate:")
    spec = RunSpec(words, tmp_path, kind="finetune", params={"learning-rate": "0.001"})
    assert values_of_run(record(spec))[1] == {"data": ("a.txt",), "model": "sprite", "learning-rate": "0.001"}


def test_a_recorded_generate_saves_its_samples_again(tmp_path):
    words = ("conjure", "generate", "--model", "sprite", "--seed=3", "--output", "samples.json", "--", "Hi")
    spec = RunSpec(words, tmp_path, kind="generate", description="mine")
    assert values_of_run(record(spec)) == (
        "generate",
        {"prompt": "Hi", "model": "sprite", "seed": "3", "save": True, "description": "mine"},
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (RunSpec(("x",), Path("/"), kind="score"), "only run, finetune and generate"),
        (
            RunSpec(("conjure", "finetune", "a.txt", "--resume"), Path("/"), kind="finetune"),
            "was started with --resume, which cannot be saved",
        ),
        (RunSpec(("curl -u me:s3cret-word x",), Path("/")).stored(), "a secret in its command"),
        (
            RunSpec(("x",), Path("/"), environment=EnvironmentChoice(requirements="--pre\nx\n")),
            "the line '--pre'",
        ),
    ],
)
def test_a_recorded_run_that_no_file_can_hold_is_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        values_of_run(record(spec))


def test_rerun_writes_the_file_and_repeats_nothing(call):
    assert call("run", "--json", "echo", "one")[0] == 0
    assert call("rerun", "1", "--save-command", "a.toml")[0] == 0
    assert saved("a.toml") == {"command": ["echo", "one"]}
    assert call("run", "--from-file", "a.toml", "--json")[0] == 0
    assert "no run 3" in call("info", "3")[1]


def test_help_names_both_options():
    text = run.command.get_help(click.Context(run.command))
    assert "--from-file" in text
    assert "--save-command" in text
