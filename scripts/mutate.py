"""Changes one line of the code at a time, at random, and counts how many changes a test notices.

    .venv/bin/python scripts/mutate.py -n 200 --seed 1

Each change is made in a copy of the repository, and the tests nearest to the changed module run there until
the first one fails: its own unit tests, others that import it, then those listed for its folder. What no test
notices is printed.

Main entry: `main`. Invariant: the working tree is only read.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/conjure")
TIMEOUT_S = 600

# What is mutated, and which tests beyond the module's own unit tests are asked in turn.
TARGETS = {
    "runs/lifecycle": [
        "tests/unit/runs",
        "tests/property",
        "tests/integration/runs",
        "tests/e2e/test_runs.py",
    ],
    "runs/schema": ["tests/unit/runs", "tests/property", "tests/e2e/test_runs.py"],
    "lm/training": ["tests/unit/lm/training", "tests/parity", "tests/e2e/test_finetune.py"],
    "lm/report": ["tests/unit/lm/report", "tests/property", "tests/integration"],
}
_FOLDERS = ("unit", "property", "integration", "parity")
_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One changed expression: where it stands in the file, and what is put there."""

    module: Path
    line: int
    start: int
    end: int
    text: str


def main() -> int:
    """Try the mutations; the exit status is 1 where fewer are noticed than asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=200, help="mutations to try (200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--at-least", type=float, default=0.85, help="share that a test has to notice (0.85)")
    options = parser.parse_args()
    every = [mutation for folder in TARGETS for mutation in _mutations_below(folder)]
    chosen = random.Random(options.seed).sample(every, min(options.n, len(every)))
    noticed = 0
    with tempfile.TemporaryDirectory(prefix="conjure-mutate-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".coverage", ".cache"))
        for number, mutation in enumerate(chosen, 1):
            began = time.monotonic()
            killed = _is_noticed(copy, mutation)
            noticed += killed
            where = f"{mutation.module}:{mutation.line}: {_line(mutation)} → {mutation.text}"
            word = "noticed" if killed else "SURVIVED"
            seconds = time.monotonic() - began
            sys.stdout.write(f"{number}/{len(chosen)} {word} in {seconds:.0f} s  {where}\n")
            sys.stdout.flush()
    share = noticed / len(chosen)
    sys.stdout.write(
        f"{noticed} of {len(chosen)} mutations noticed ({share:.0%}), of {len(every):,} possible ones\n"
    )
    return 0 if share >= options.at_least else 1


def _mutations_below(folder: str) -> Iterator[Mutation]:
    for module in sorted((ROOT / PACKAGE / folder).rglob("*.py")):
        yield from _mutations(module.relative_to(ROOT), module.read_text(encoding="utf-8"))


def _mutations(module: Path, text: str) -> Iterator[Mutation]:
    """Every single-expression change of a module, on one line, outside annotations and docstrings."""
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        replacement = _replacement(node)
        if replacement is None or node.lineno != node.end_lineno:
            continue
        start, end = (starts[node.lineno - 1] + offset for offset in (node.col_offset, node.end_col_offset))
        yield Mutation(module, node.lineno, start, end, replacement)


def _replacement(node: ast.AST) -> str | None:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        return ast.unparse(ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])]()], node.comparators))
    if (
        isinstance(node, ast.BinOp)
        and type(node.op) in _ARITHMETIC
        and not isinstance(node.left, ast.Constant)
    ):
        return f"({ast.unparse(ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right))})"
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return f"({ast.unparse(ast.BoolOp(other, node.values))})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"({ast.unparse(node.operand)})"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return "pass"
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        return "return None"
    return None


def _line(mutation: Mutation) -> str:
    data = (ROOT / mutation.module).read_bytes()
    return data[mutation.start : mutation.end].decode()


def _is_noticed(copy: Path, mutation: Mutation) -> bool:
    module = copy / mutation.module
    original = module.read_bytes()
    module.write_bytes(original[: mutation.start] + mutation.text.encode() + original[mutation.end :])
    try:
        return any(_fails(copy, tests) for tests in _tests_of(mutation.module))
    finally:
        module.write_bytes(original)


def _tests_of(module: Path) -> Iterator[list[str]]:
    """Tests to ask, in turn: the module's own, others that import it, then those of its folder."""
    inside = module.relative_to(PACKAGE)
    own = Path("tests/unit") / inside.parent / f"test_{inside.name}"
    imported = ".".join(("conjure", *inside.with_suffix("").parts))
    importing = [
        str(path.relative_to(ROOT))
        for folder in _FOLDERS
        for path in sorted((ROOT / "tests" / folder).rglob("test_*.py"))
        if re.search(rf"\b{re.escape(imported)}\b", path.read_text(encoding="utf-8"))
    ]
    if (ROOT / own).exists():
        yield [str(own)]
    if others := [each for each in importing if each != str(own)]:
        yield others
    folder = next(each for each in TARGETS if inside.is_relative_to(each))
    for tests in TARGETS[folder]:
        yield [tests]


def _fails(copy: Path, tests: list[str]) -> bool:
    workers = "0" if len(tests) == 1 and tests[0].endswith(".py") else "2"  # to start some takes seconds
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", workers, "-p", "no:cacheprovider", *tests]
    variables = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=variables, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return True  # it hangs, which somebody would notice
    return done.returncode not in (0, 5)  # 5: no test was found


if __name__ == "__main__":
    sys.exit(main())
