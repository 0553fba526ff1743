"""`conjure config`, and settings as the defaults of options."""

import json
import os

import click
import pytest

from conjure.cli.commands import run, sweep
from conjure.cli.configured_defaults import configured_defaults
from conjure.cli.main import CONFIGURED, _run, cli
from conjure.core.config import SETTINGS
from conjure.core.home import Home
from conjure.errors import UsageError
from conjure.python_api import RunOptions, _spec


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder: a repository's, without settings."""
    folder = tmp_path / "here"
    (folder / ".git").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for setting in SETTINGS.values():
        if setting.variable is not None:
            monkeypatch.setenv(setting.variable, "")  # what a command puts there is taken out again
    return folder


@pytest.fixture
def call(here, capsys):
    def run(*arguments):
        status = _run(list(arguments))
        return status, *capsys.readouterr()

    return run


def test_all_settings_are_shown_with_where_they_were_set(call, here, conjure_home):
    assert call("config", "set", "run.cpus", "2") == (
        0,
        f"run.cpus is 2 in {conjure_home / 'config.toml'}\n",
        "",
    )
    call("config", "set", "--project", "run.pip", "tqdm", "rich")
    status, shown, _ = call("config")
    rows = [line.split() for line in shown.splitlines()]
    assert (status, rows[0]) == (0, ["SETTING", "VALUE", "FROM"])
    assert ["model", "sprite", "default"] in rows
    assert ["run.cpus", "2", str(conjure_home / "config.toml")] in rows
    assert ["run.pip", "tqdm", "rich", str(here / "conjure.toml")] in rows
    assert {row[0] for row in rows[1:]} == set(SETTINGS)
    listed = json.loads(call("config", "--json")[1])
    assert {"key": "run.cpus", "value": 2.0, "from": str(conjure_home / "config.toml")} in listed


def test_one_setting(call, conjure_home):
    assert call("config", "get", "run.memory") == (0, "-\n", "")
    call("config", "set", "run.memory", "8GB")
    assert call("config", "get", "run.memory") == (0, "8GB\n", "")
    assert json.loads(call("config", "get", "run.memory", "--json")[1])["value"] == "8GB"
    assert call("config", "unset", "run.memory")[0] == 0
    assert call("config", "get", "run.memory") == (0, "-\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "modle"), "error: there is no setting 'modle'; did you mean model?"),
        (("set", "run.cpus", "two"), "error: the value: run.cpus cannot be 'two'; allowed: a number above 0"),
        (("set", "model", "a", "b"), "error: model takes one value; 2 were given"),
        (("unset", "modle"), "error: there is no setting 'modle'; did you mean model?"),
        (("unset", "--project", "model"), "error: model is not set: there is no "),
    ],
)
def test_a_mistake_is_one_sentence(call, arguments, message):
    status, shown, told = call("config", *arguments)
    assert (status != 0, shown) == (True, "")
    assert told.startswith(message)


def test_a_wrong_file_stops_what_uses_it_and_nothing_else(call, here):
    (here / "conjure.toml").write_text("[run]\ncpu = 2\n")
    status, _, told = call("run", "true")
    assert status == 125
    assert told.startswith(
        f"error: {here / 'conjure.toml'}: there is no setting 'run.cpu'; did you mean run.cpus"
    )
    assert call("ps")[0] == 0
    for words in ("run --help", "sweep grid -h", "models list", "sweep ls", "hyper ls", "export --help"):
        assert call(*words.split())[0] == 0, words
    for words in ("sweep stop 3", "sweep show 3"):
        assert "there is no sweep 3" in call(*words.split())[2]
    for words in ("sweep bayesian -n 1 true", "hyper grid true", "generate", "data preview x"):
        assert "there is no setting 'run.cpu'" in call(*words.split())[2], words


def test_a_wrong_file_is_mended(call, here):
    (here / "conjure.toml").write_text("colour = 1\n[run]\ncpus = 0\n")
    assert call("config", "set", "--project", "run.cpus", "2")[0] == 0
    assert call("config", "unset", "--project", "colour") == (
        0,
        f"colour is not set in {here / 'conjure.toml'}\n",
        "",
    )
    assert call("config", "get", "run.cpus") == (0, "2\n", "")


def test_settings_are_defaults_of_options_that_exist(here, conjure_home):
    conjure_home.mkdir()
    (conjure_home / "config.toml").write_text(
        'model = "gpt2"\nsandbox = true\n'
        '[run]\nbase = "none"\npython = "3.12"\npip = ["a"]\ncpus = 1\ngpus = 2\n'
        'memory = "1GB"\n'
        'timeout = "1h"\noutput = ["*"]\nno-output = ["*.tmp"]\n'
    )
    context = click.Context(cli)
    for name in dict.fromkeys(path.split()[0] for path in CONFIGURED):
        command = cli.get_command(context, name)
        for key, value in configured_defaults(name).get(name, {}).items():
            target = command.get_command(context, key) if isinstance(value, dict) else command
            names = {parameter.name for parameter in target.params}
            assert (value.keys() if isinstance(value, dict) else {key}) <= names
    run = configured_defaults("run")["run"]
    names = {key.removeprefix("run.").replace("-", "_") for key in SETTINGS if "run." in key}
    assert run.keys() == names | {"sandbox"}
    assert run.keys() <= RunOptions.__annotations__.keys()
    assert configured_defaults("generate")["generate"] == {"model": "gpt2"}


def test_what_a_variable_stands_for_is_set_for_what_reads_it(here, conjure_home, monkeypatch):
    monkeypatch.delenv("CONJURE_NATIVE")
    (here / "conjure.toml").write_text('native = "off"\n')
    configured_defaults("generate")
    assert os.environ["CONJURE_NATIVE"] == "off"
    monkeypatch.setenv("CONJURE_NATIVE", "portable")
    configured_defaults("generate")
    assert os.environ["CONJURE_NATIVE"] == "portable"


def test_inside_a_run_nothing_is_read(here, monkeypatch):
    (here / "conjure.toml").write_text("nonsense = 1\n")
    with pytest.raises(UsageError):
        configured_defaults("run")
    monkeypatch.setenv("CONJURE_RUN", "3")
    assert configured_defaults("run") == {}


def test_settings_that_no_run_with_an_image_can_have_are_left_out_there(here, conjure_home):
    conjure_home.mkdir()
    (conjure_home / "config.toml").write_text('[run]\nbase = "none"\npython = "3.12"\ngpus = 1\ncpus = 2\n')
    settings = configured_defaults("run")["run"]

    def parsed(*words):
        given = run.command.make_context("run", [*words, "true"], default_map=settings).params
        return [given[name] for name in ("base", "python", "gpus", "cpus")]

    assert parsed() == ["none", "3.12", 1, 2.0]
    assert parsed("--image", "debian:12") == ["current", None, None, 2.0]
    assert parsed("--python", "3.13", "--image", "debian:12") == ["current", "3.13", None, 2.0]
    spec = _spec(Home(conjure_home), ("true",), {"image": "debian:12"})
    assert (spec.environment.base, spec.environment.python) == ("current", None)
    assert (spec.resources.gpus, spec.resources.cpus) == (None, 2)


def test_settings_of_runs_are_those_of_trials_that_are_commands_of_the_users(call, here, conjure_home):
    conjure_home.mkdir()
    (conjure_home / "config.toml").write_text('sandbox = true\n[run]\ncpus = 2\ntimeout = "1h"\n')

    def parsed(*words):
        settings = configured_defaults("sweep")["sweep"]["grid"]
        above = click.Context(cli, **cli.context_settings)  # a command keeps its first context's help option
        given = sweep.grid.make_context("grid", list(words), parent=above, default_map=settings).params
        return [given[name] for name in ("cpus", "timeout", "sandbox")]

    assert parsed("--param", "x=1", "--", "echo", ":x:") == [2.0, "1h", True]
    assert parsed("--param", "x=1", "--cpus", "1", "--no-sandbox", "echo", ":x:") == [1.0, "1h", False]
    assert parsed("--param", "seed=1", "conjure", "generate", "Hi") == [None, None, False]
    assert parsed("--cpus", "1", "--", "conjure", "finetune", "jokes.txt") == [1.0, None, False]
    call("sweep", "grid", "--save-command", "c.toml", "--param", "seed=1", "--", "conjure", "generate", "Hi")
    assert "cpus" not in (here / "c.toml").read_text()


PACKAGES = '[run]\npip = ["./tools", "tqdm"]\n'


@pytest.mark.parametrize(
    ("users", "projects", "typed", "is_refused"),
    [
        ("", PACKAGES, ("--sandbox",), True),
        ("sandbox = true\n", PACKAGES, (), True),
        ("sandbox = true\n", f"sandbox = true\n{PACKAGES}", (), True),
        ("", f"sandbox = true\n{PACKAGES}", ("--sandbox",), True),
        ("sandbox = true\n", "[run]\npip = []\n", (), False),
        ("sandbox = true\n", PACKAGES, ("--pip", "tqdm"), False),
        ("sandbox = true\n[run]\npip = ['tqdm']\n", "", (), False),
        ("", "sandbox = true\n[run]\npip = ['tqdm']\n", (), False),  # the user did not ask for it
    ],
)
def test_a_project_adds_no_packages_to_a_run_whose_user_asked_for_the_sandbox(
    call, here, conjure_home, users, projects, typed, is_refused
):
    conjure_home.mkdir()
    (conjure_home / "config.toml").write_text(users)
    (here / "conjure.toml").write_text(projects)
    status, _, told = call("run", *typed, "--save-command", "c.toml", "--", "true")
    given = {"sandbox": True} if "--sandbox" in typed else {}
    given |= {"pip": "tqdm"} if "--pip" in typed else {}
    if not is_refused:
        assert status == 0
        assert _spec(Home(conjure_home), ("true",), given).sandbox
        return
    refusal = f"{here / 'conjure.toml'} adds packages, which are built and installed outside the sandbox"
    assert told == (
        f"error: {refusal}\n  hint: if you trust them, request them yourself: --pip ./tools --pip tqdm\n"
    )
    with pytest.raises(UsageError, match=refusal):
        _spec(Home(conjure_home), ("true",), given)


def test_the_model_that_is_set_is_none_of_a_predictors(call, here):
    call("config", "set", "model", "runs/3")
    assert call("serve", "--predictor", "p.py", "--mount", "runs/3")[2] == (
        "error: --mount needs --save: resources are mounted in a run\n"
        "  try: conjure serve --predictor p.py --mount runs/3 --save\n"
    )
    assert (
        "--predictor and --model cannot be combined"
        in call("serve", "--predictor", "p.py", "--model", "gpt2")[2]
    )


def test_a_sweep_has_the_model_and_the_number_format_that_are_set(call, conjure_home):
    call("config", "set", "model", "gpt2")
    call("config", "set", "precision", "float32")
    line = ("sweep", "grid", "--dry-run", "--param", "seed=1", "--", "conjure", "generate")
    assert call(*line, "Hi")[1] == (
        "conjure generate --model gpt2 --save --precision=float32 --seed=1 -- Hi\n"
    )
