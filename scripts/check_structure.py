"""Holds what no other check counts: modules in a folder, lazy imports of our own, parameters in docstrings.

It also holds that one function alone puts errors of the system into words.

Main entry: `main` (part of ``make check``). Invariant: the import contracts hold the arrows; this holds what
they cannot count. Imports for the type checker alone are not counted: they cost nothing and order nothing.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
COMMANDS = SOURCE / "conjure" / "cli" / "commands"
MOST_MODULES = 17  # in a folder; the folder of the commands has one for each command
MOST_LAZY_IMPORTS = 20  # of our own inside functions, outside the commands
MOST_LAZY_IMPORTS_OF_A_COMMAND = 1
# `error_text`; and what also runs on Pythons that have no other module of ours.
READERS_OF_STRERROR = [SOURCE / "conjure" / "core" / "text.py", SOURCE / "conjure" / "metric_logging.py"]
SAID_BY_THE_TYPE = "home: Where conjure keeps things."


def main() -> int:
    """Print what is over its limit; the exit status says whether anything is."""
    faults = [*_large_folders(), *_lazy_imports(), *_docstrings(), *_strerrors()]
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


def _large_folders() -> Iterator[str]:
    for folder in [SOURCE / "conjure", *(path for path in SOURCE.rglob("*") if path.is_dir())]:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if folder != COMMANDS and len(modules) > MOST_MODULES:
            yield f"{_name(folder)} has {len(modules)} modules; {MOST_MODULES} are allowed"


def _lazy_imports() -> Iterator[str]:
    elsewhere = []
    for module in sorted(SOURCE.rglob("*.py")):
        lines = module.read_text(encoding="utf-8").splitlines()
        found = list(_imports_in_functions(ast.parse("\n".join(lines))))
        yield from (
            f"{_name(module)}:{line}: an import inside a function needs a comment that says why"
            for line in found
            if "#" not in lines[line - 1] and not lines[line - 2].lstrip().startswith("#")
        )
        if module.parent == COMMANDS:
            if len(found) > MOST_LAZY_IMPORTS_OF_A_COMMAND:
                yield f"{_name(module)} imports {len(found)} times inside functions; 1 is allowed"
        else:
            elsewhere += [f"{_name(module)}:{line}" for line in found]
    if len(elsewhere) > MOST_LAZY_IMPORTS:
        places = ", ".join(elsewhere)
        yield f"{len(elsewhere)} imports inside functions; {MOST_LAZY_IMPORTS} are allowed: {places}"


def _imports_in_functions(tree: ast.Module) -> Iterator[int]:
    """Lines of the imports of our own modules inside functions."""
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    lines = set()
    for function in functions:
        for each in ast.walk(function):
            names = []
            if isinstance(each, ast.ImportFrom):
                names = [each.module or ""]
            elif isinstance(each, ast.Import):
                names = [alias.name for alias in each.names]
            if any(name.partition(".")[0] == "conjure" for name in names):
                lines.add(each.lineno)
    return iter(sorted(lines))


def _docstrings() -> Iterator[str]:
    for module in sorted(SOURCE.rglob("*.py")):
        text = module.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() == SAID_BY_THE_TYPE:
                yield f"{_name(module)}:{number}: {SAID_BY_THE_TYPE!r} is said by the type, Home"
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for parameter in _undescribed(function):
                    yield f"{_name(module)}:{function.lineno}: the docstring leaves out {parameter}"


def _undescribed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The parameters that a list of parameters leaves out; one whose type is Home may be."""
    described = re.search(r"^Args:\n((?: .*\n?|\n)+)", ast.get_docstring(function) or "", re.MULTILINE)
    if described is not None:
        names = re.findall(r"^ {4}\*{0,2}(\w+):", described[1], re.MULTILINE)
        of = function.args
        for each in (*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg):
            if each is None or each.arg in {"self", "cls"} or each.arg.startswith("_"):
                continue
            if each.arg not in names and (each.annotation is None or ast.unparse(each.annotation) != "Home"):
                yield each.arg


def _strerrors() -> Iterator[str]:
    """Where `strerror` is read, which is None in an error that a library made up."""
    for module in sorted(set(SOURCE.rglob("*.py")) - set(READERS_OF_STRERROR)):
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(r"(?<!\bos)\.strerror\b", line):
                yield f"{_name(module)}:{number}: conjure.core.text.error_text says what went wrong"


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE.parent))


if __name__ == "__main__":
    sys.exit(main())
