"""Holds the numbers of the code's structure: modules in a folder, imports of our own inside functions.

Main entry: `main` (part of ``make check``). Invariant: the import contracts hold the arrows; this holds what
they cannot count. Imports for the type checker alone are not counted: they cost nothing and order nothing.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
COMMANDS = SOURCE / "conjure" / "cli" / "commands"
MOST_MODULES = 17  # in a folder; the folder of the commands has one for each command
MOST_LAZY_IMPORTS = 20  # of our own inside functions, outside the commands
MOST_LAZY_IMPORTS_OF_A_COMMAND = 1


def main() -> int:
    """Print what is over its limit; the exit status says whether anything is."""
    faults = [*_large_folders(), *_lazy_imports()]
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


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE.parent))


if __name__ == "__main__":
    sys.exit(main())
