"""Errors name options so that each interface can spell them its own way."""

import ast
import re
from pathlib import Path

import pytest

import conjure
from conjure.errors import ConjureError, UsageError, option

SOURCE = Path(conjure.__file__).parent
LIBRARY = ("core", "runs", "lm", "recipes", "python_api.py", "errors.py", "metric_logging.py")
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*\b")
COMMANDS = re.compile(r"\b(conjure|pip|git|hf|cd|sed|python|llama-gguf-split) ")


def test_python_spells_an_option_as_an_argument():
    error = UsageError(
        f"{option('top_k')} is -1", fix=option("top_k", 40), hint=f"or {option('mounts', 'a', 'b')}"
    )
    assert str(error) == "top_k is -1"
    assert (error.field, error.fix, error.hint) == ("top_k", "top_k=40", "or mounts=['a', 'b']")


def test_another_interface_spells_it_otherwise():
    error = UsageError(f"{option('top_k', 0)} and {option('model', 'my model')}", hint="plain words")

    def as_json(name, values):
        return f'"{name}": {values[0]!r}'

    assert error.with_option_names(as_json) == ('"top_k": 0 and "model": \'my model\'', None, "plain words")


def test_a_record_keeps_what_to_do_too():
    assert ConjureError("the disk is full").in_full() == "the disk is full"
    error = ConjureError(
        f"{option('python')} is odd", hint=f"give {option('base', 'none')}", fix="conjure ps"
    )
    assert error.in_full() == "--python is odd (give --base none; try: conjure ps)"
    assert ConjureError("odd", fix=option("committed", True)).in_full() == "odd (try: --committed)"


def test_an_error_that_names_no_option_is_about_none():
    error = ConjureError("the disk is full")
    assert (error.field, error.fix, error.hint) == (None, None, None)
    assert UsageError("odd", field="top_k").field == "top_k"


def test_an_error_can_be_made_of_another():
    first = UsageError(f"{option('top_k')} is odd")
    again = UsageError(f"twice: {first.unspelled.message}")
    assert again.with_option_names(lambda name, _: name.upper()).message == "twice: TOP_K is odd"


@pytest.mark.parametrize("part", LIBRARY)
def test_no_error_of_the_library_names_a_flag(part):
    """The library has no flags; `option` names what the command line spells as one."""
    files = [SOURCE / part] if part.endswith(".py") else sorted((SOURCE / part).rglob("*.py"))
    named = [
        f"{path.relative_to(SOURCE)}:{text.lineno}: {text.value!r}"
        for path in files
        for text in _texts_of_errors(ast.parse(path.read_text("utf-8")))
        if FLAG.search(text.value) and not COMMANDS.search(text.value)
    ]
    assert named == []


def _texts_of_errors(tree):
    calls = (each for each in ast.walk(tree) if isinstance(each, ast.Call))
    for call in calls:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name.endswith("Error") or name in {"value_fault", "ValueFault"}:
            inner = {each for one in ast.walk(call) if _spells(one) for each in ast.walk(one)}
            for each in ast.walk(call):
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and each not in inner:
                    yield each


def _spells(node):
    """Whether it names an option, or is a whole command to type."""
    names = {"option", "shell_words"}
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
