"""What errors tell people to type: it must be something that can be typed."""

import ast
import re
from pathlib import Path

import conjure

SOURCE = Path(conjure.__file__).parent
PROGRAMS = ("conjure", "pip", "git", "iconv", "jq", "python", "az")
FIRST = re.compile(rf"(({'|'.join(PROGRAMS)}) |-)\S*")


def fixes():
    """Every ``fix=`` of the sources that is written as text, with where it stands."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "fix":
                        for text in texts(keyword.value):
                            yield f"{path.relative_to(SOURCE)}:{node.lineno}", text


def texts(value):
    """The beginning of each text an expression can be."""
    if isinstance(value, ast.IfExp):
        yield from texts(value.body)
        yield from texts(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        first = value.values[0]
        yield first.value if isinstance(first, ast.Constant) else "--" if names_an_option(first) else ""


def names_an_option(part):
    return isinstance(part.value, ast.Call) and ast.unparse(part.value.func) == "option"


# An f-string that begins with a name chosen elsewhere: what opens an archive, and the program's own name.
BEGINS_WITH_A_NAME = {"lm/text/sources.py", "cli/main.py"}


def test_a_fix_is_a_command_or_options():
    found = list(fixes())
    assert len(found) > 40
    wrong = [
        (where, text)
        for where, text in found
        if not FIRST.match(text) and not (text == "" and where.partition(":")[0] in BEGINS_WITH_A_NAME)
    ]
    assert wrong == []


def test_no_fix_is_followed_by_words():
    prose = re.compile(r", |; | or |\(|\bthen\b|[.…]$")
    assert [(where, text) for where, text in fixes() if prose.search(text)] == []
