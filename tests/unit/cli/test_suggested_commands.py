"""Commands to type next: each is for the home that was chosen, whoever suggests it."""

import ast
import re
from pathlib import Path

import pytest

import conjure.cli
from conjure.cli.main import COMMANDS, _run
from conjure.lm.checkpoints import pickle_conversion

FOLDER = Path(conjure.cli.__file__).parent
# `main` adds the home to what errors suggest; `crash` records what was typed.
MODULES = sorted(path for path in FOLDER.rglob("*.py") if path.name not in ("main.py", "crash.py"))
NAMES_A_COMMAND = re.compile(rf"\bconjure ((?:{'|'.join(COMMANDS)})\b|$)")
TOLD_BY_MAIN = {"fix", "hint"}
ONLY_TELLS_WHAT_THERE_IS = {"help", "epilog"}
COMPARES = {"removeprefix", "startswith"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_suggested_command_is_for_the_chosen_home(path):
    assert not list(suggestions(path)), "a command to type next goes through `with_home`"


def suggestions(path):
    """The lines of a module with a command to type next that does not go through `with_home`."""
    tree = ast.parse(path.read_text())
    allowed = {id(inner) for node in ast.walk(tree) if is_allowed(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) not in allowed and names_a_command(node):
            yield node.lineno, ast.unparse(node)


def names_a_command(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return NAMES_A_COMMAND.search(node.value) is not None
    return called(node) == "shell_words" and ast.unparse(node.args[0]) == "'conjure'"


def is_allowed(node):
    if isinstance(node, ast.keyword):
        return node.arg in TOLD_BY_MAIN | ONLY_TELLS_WHAT_THERE_IS
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_docstring or isinstance(node, ast.Raise) or called(node) in {"with_home", *COMPARES}


def called(node):
    """The name of what is called; None of what is no call."""
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        (["ps"], 'start one: conjure --home lab run "echo hello"'),
        (["sweep", "ls"], "start one: conjure --home lab sweep grid --param x=1,2 -- echo :x:"),
        (["info", "x"], "`conjure --home lab ps` lists runs"),
        (["finetune", "--resume", "uploads/x"], "hint: conjure --home lab finetune --resume runs/3"),
        (["stop"], "try: conjure --home lab stop --help"),
    ],
)
def test_what_is_suggested_acts_on_the_home_that_was_chosen(typed, suggested, capsys, home):
    home.named("lab").create()
    _run(["--home", "lab", *typed])
    assert suggested in capsys.readouterr().err


def test_a_folder_is_quoted_in_what_is_suggested(capsys, tmp_path, monkeypatch):
    written = tmp_path / "my model" / "model.safetensors"
    monkeypatch.setattr(pickle_conversion, "convert", lambda *_, **__: written)
    assert _run(["models", "convert", "x"]) == 0
    assert f"conjure generate --model '{written.parent}'" in capsys.readouterr().err
