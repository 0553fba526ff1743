"""Benchmarks and scripts use what there is: most of them run for minutes, so no other test begins them."""

import ast
import importlib

import pytest

from support.pages import REPOSITORY

# Not what is installed below them.
_FOLDERS = ("benchmarks", "benchmarks/web", "benchmarks/workers", "examples/sprite", "scripts")
_SCRIPTS = sorted(path for folder in _FOLDERS for path in (REPOSITORY / folder).glob("*.py"))


def _has(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        return bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_it_imports_of_conjure_is_there(path):
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").partition(".")[0] == "conjure"]
    missing = [
        f"{node.module}.{name.name}"
        for node in ours
        for name in node.names
        if not _has(node.module, name.name)
    ]
    assert missing == []
