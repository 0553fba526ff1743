"""The edge of every command: what is said and with which status, whatever is typed and whatever happens."""

import subprocess

import pytest

from conjure.cli import main
from conjure.cli.commands import generate, ps
from conjure.cli.main import COMMANDS, _command_line, _run
from conjure.core.home import Home
from conjure.errors import UsageError, option


@pytest.fixture
def call(capsys):
    def run(*arguments):
        status = _run(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_conjure_alone_shows_its_help(call):
    assert call() == (0, call("--help")[1], "")


def test_help_shows_what_the_option_shows(call):
    assert call("help")[1] == call("--help")[1]
    for verb in ("run", "finetune"):
        assert call("help", verb) == call(verb, "--help")
    assert call("help", "models", "convert") == call("models", "convert", "--help")


def test_help_of_nothing(call):
    assert call("help", "modls") == (
        2,
        "",
        "error: there is no command `conjure modls`; did you mean models?\n",
    )
    assert (
        call("help", "run", "x")[2]
        == "error: there is no command `conjure run x`; see `conjure run --help`\n"
    )


def test_version(call):
    assert call("version") == call("--version")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(call, shell):
    status, script, _ = call("completion", shell)
    assert status == 0
    assert f"_CONJURE_COMPLETE={shell}_complete" in script


def test_a_completed_word(tmp_path):
    script = 'eval "$(conjure completion bash)"; COMP_WORDS=(conjure fin); COMP_CWORD=1; _conjure_completion'
    line = f'PATH="{main.sys.prefix}/bin:$PATH"; {script} conjure fin; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout == "finetune\n"


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("generat", "`conjure generate`"),
        ("inof", "`conjure info`"),
        ("metric", "`conjure metrics`"),
        ("lgos", "`conjure logs`"),
        ("deploy", None),
        ("train", None),
        ("x", None),
    ],
)
def test_only_near_commands_are_suggested(call, typed, near):
    hint = f"; did you mean {near}?" if near else ""
    assert call(typed) == (2, "", f"error: there is no command {typed!r}{hint}\n  try: conjure --help\n")


@pytest.mark.parametrize(
    ("group", "typed", "near"),
    [
        ("sweep", "shwo", "`conjure sweep show`"),
        ("hyper", "shwo", "`conjure hyper show`"),
        ("models", "fecth", "`conjure models fetch`"),
        ("config", "zzz", None),
    ],
)
def test_unknown_commands_of_groups_are_told_alike(call, group, typed, near):
    hint = f"; did you mean {near}?" if near else ""
    message = f"error: there is no command '{group} {typed}'{hint}\n  try: conjure {group} --help\n"
    assert call(group, typed) == (2, "", message)


def test_a_group_without_a_command_names_those_it_has(call):
    message = "`conjure team` needs a command: init, join, leave, push, status, upgrade"
    assert call("team") == (2, "", f"error: {message}\n  try: conjure team --help\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "--lx"], "there is no option --lx"),
        (["ps", "--jsn"], "there is no option --jsn; did you mean --json?"),
        (["ps", "--frobnicate"], "there is no option --frobnicate"),
    ],
)
def test_only_near_options_are_suggested(call, words, message):
    assert call(*words) == (2, "", f"error: {message}\n  try: conjure {words[0]} --help\n")


@pytest.mark.parametrize(
    ("typed", "fix", "line"),
    [
        ("finetune a.csv --seed=8 --epochs 2", "--seed 1", "conjure finetune a.csv --epochs 2 --seed 1"),
        ("finetune --seed 8 a.csv", "--seed 1", "conjure finetune a.csv --seed 1"),
        ("finetune a.csv --no-run", "--seed 1", "conjure finetune a.csv --no-run --seed 1"),
        ("data preview -n 1 -- -odd.csv", "--column b", "conjure data preview -n 1 --column b -- -odd.csv"),
        ("generate --stop a", "--stop b", "conjure generate --stop a --stop b"),  # it may be repeated
        ("models list", "models fetch gpt2", "models fetch gpt2"),
        (
            "sweep grid --metric los --minimize python t.py --metric x",
            "--metric loss",
            "conjure sweep grid --minimize --metric loss python t.py --metric x",
        ),
        (
            "sweep grid --param epochs=1,2 -- conjure finetune two.csv --seed 3",
            "--column Joke",
            "conjure sweep grid --param epochs=1,2 -- conjure finetune two.csv --seed 3 --column Joke",
        ),
        (
            "sweep grid --metric los conjure finetune a.csv",
            "--metric loss",
            "conjure sweep grid --metric loss conjure finetune a.csv",
        ),
    ],
)
def test_a_fix_takes_the_place_of_what_it_corrects(typed, fix, line):
    assert _command_line(fix, typed.split()) == line


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("run -m a.csv:in -- cat a.csv", "conjure run -m ./a.csv:in -- cat a.csv"),
        ("run --label a.csv --mount=a.csv true", "conjure run --label a.csv --mount=./a.csv true"),
        ("run -ma.csv true", "conjure run -m./a.csv true"),
        ("jupyter -m b -m a.csv", "conjure jupyter -m b -m ./a.csv"),
        ("sweep grid -m a.csv a.csv", "conjure sweep grid -m ./a.csv a.csv"),
        (
            "serve --predictor p.py --save --mount a.csv",
            "conjure serve --predictor p.py --save --mount ./a.csv",
        ),
        ("run cat a.csv", None),  # its mount stands in a setting
        ("ls a.csv", None),
        ("rerun 3", None),
    ],
)
def test_a_mount_of_a_local_file_is_corrected_where_it_was_typed(typed, line):
    option = "--mount" if "--mount" in typed else "-m"
    assert _command_line(f"{option} ./a.csv", typed.split()) == line


def test_an_option_that_a_command_does_not_have_is_not_suggested(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    message = "there is no resource 'src': 'src' is neither runs, uploads nor a link"
    hint = "to make the local one an upload: conjure upload ./src"
    assert call("ls", "src") == (1, "", f"error: {message}\n  hint: {hint}\n  try: conjure ls\n")


def test_usage_is_told_in_one_form(call):
    assert call("stop") == (2, "", "error: missing argument 'NUMBER...'\n  try: conjure stop --help\n")
    assert call("run", "--cpus", "x", "true")[0] == 125


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("--home nowhere run true", 125),
        ("--home=nowhere rerun 3", 125),
        ("--home nowhere ps", 2),
        ("--home nowhere", 2),
    ],
)
def test_a_home_that_is_not_there_is_a_failure_of_run_itself(call, typed, status):
    assert call(*typed.split())[0] == status


# ---- the last net ------------------------------------------------------------------------------------------


def crashes(home):
    return list((home / "crashes").iterdir())


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), RecursionError("deep"), KeyError("k"), AssertionError()]
)
def test_an_unforeseen_error_is_one_sentence_and_a_file(call, monkeypatch, conjure_home, error):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(ps.command, "callback", fail)
    status, out, err = call("ps")
    assert (status, out) == (70, "")
    (file,) = crashes(conjure_home)
    assert err.startswith(f"error: internal error ({type(error).__name__}")
    assert len(err.splitlines()) == 2
    assert str(file) in err
    content = file.read_text()
    assert content.startswith("command: conjure ps\n")
    assert "Traceback" in content


def test_a_crash_of_run_has_the_status_of_its_own_failures(call, monkeypatch, conjure_home):
    monkeypatch.setattr("conjure.cli.submit_and_follow.submit", lambda *_, **__: 1 / 0)
    status, _, err = call("run", "-e", "API_KEY=hunter2xyz", "curl -u me:hunter2xyz h")
    assert status == 125
    assert "ZeroDivisionError" in err
    (file,) = crashes(conjure_home)
    assert "hunter2xyz" not in file.read_text()


def test_a_crash_where_the_home_cannot_be_written(call, monkeypatch, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    monkeypatch.setenv("CONJURE_HOME", str(occupied))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ps.command, "callback", lambda **_: 1 / 0)
    assert call("ps")[0] == 70
    assert len(list(tmp_path.glob("conjure-crash-*.txt"))) == 1


@pytest.mark.parametrize("arguments", [["ps"], ["--home", "lab", "ps"], ["finetune", "jokes.csv"]])
def test_a_home_of_a_user_that_does_not_exist_is_no_crash(call, monkeypatch, arguments):
    monkeypatch.setenv("CONJURE_HOME", "~nobody-here/home")
    assert call(*arguments) == (
        1,
        "",
        "error: CONJURE_HOME is ~nobody-here/home, and there is no user 'nobody-here'\n"
        "  hint: set CONJURE_HOME to a folder\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "~nobody-here/jokes.csv"],
        ["score", "jokes.csv", "--adapter", "~nobody-here/a", "--save"],
        ["run", "-m", "~nobody-here/file", "true"],
        ["run", "--git-url", "~nobody-here/repository", "true"],
    ],
)
def test_a_path_of_a_user_that_does_not_exist_is_no_crash(call, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jokes.csv").write_text("Joke\nThe clock ran late, again.\n")
    status, _, err = call(*arguments)
    assert status in (1, 2, 125)
    assert "internal error" not in err
    assert "~nobody-here" in err


@pytest.mark.parametrize(
    ("variable", "advice"),
    [("", "  try: conjure generate --temperature 0"), ("3", "  hint: use --temperature 0")],
    ids=["typed", "in a run"],
)
def test_in_a_run_no_command_is_made_of_what_was_not_typed(call, monkeypatch, variable, advice):
    def fail(*_arguments, **_options):
        raise UsageError("too warm", fix=option("temperature", 0))

    monkeypatch.setattr(generate.command, "callback", fail)
    if variable:
        monkeypatch.setenv("CONJURE_RUN", variable)
    assert call("generate", "--temperature", "1") == (2, "", f"error: too warm\n{advice}\n")


def test_too_little_memory_is_no_crash(call, monkeypatch, conjure_home):
    def fail(**_options):
        raise MemoryError

    monkeypatch.setattr(ps.command, "callback", fail)
    message = "not enough memory: use a smaller model, fewer samples at a time, or a smaller batch"
    assert call("ps") == (1, "", f"error: {message}\n")
    assert not Home(conjure_home).root.exists()


@pytest.mark.parametrize("verb", COMMANDS)
def test_no_command_of_nothing_shows_a_traceback(call, verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if verb in ("demo", "jupyter", "serve", "web"):  # they go on by themselves
        return
    status, _, err = call(verb)
    assert status in (0, 1, 2, 125)
    assert "Traceback" not in err


def test_a_server_of_nothing_shows_no_traceback(call):
    status, out, err = call("serve", "--model", "=sprite")
    assert (status, out) == (2, "")
    assert "'=sprite' is neither a model nor NAME=MODEL" in err
    assert "Traceback" not in err
    assert call("serve", "--model", "jokes=")[2].endswith("\n  hint: as in --model jokes=sprite\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rerun", "3", "--save-command", "f.toml", "-e", "A=1", "-b"], "-e and -b cannot be combined with"),
        (["rerun", "3", "--save-command", "f.toml", "--json"], "--json cannot be combined with"),
        (["generate", "--save", "--stream", "x"], "--stream and --save cannot be combined"),
        (["generate", "--chat-date", "2024-01-01", "x"], "--chat-date 2024-01-01 is of use only to"),
        (["score", "x", "--chat-date", "2024-01-01"], "--chat-date 2024-01-01 is of use only to"),
        (["score", "x", "--chat-date", "2024-01-01", "--save"], "--chat-date 2024-01-01 is of use only to"),
    ],
)
def test_an_option_without_effect_is_refused(call, arguments, words):
    status, out, err = call(*arguments)
    assert out == ""
    assert words in err
    assert status == (125 if arguments[0] == "rerun" else 2)


@pytest.mark.parametrize(
    ("arguments", "otherwise"),
    [
        (["finetune", "-"], ", or add --no-run"),
        (["score", "-", "--save"], ", or leave out --save"),
        (["sweep", "grid", "--param", "lora=1,2", "--", "conjure", "finetune", "-"], ""),
    ],
)
def test_what_to_do_with_standard_input_is_what_the_command_can(call, arguments, otherwise):
    err = call(*arguments)[2]
    assert err.endswith(
        f"error: text on standard input cannot be recorded\n  hint: save it to a file{otherwise}\n"
    )
