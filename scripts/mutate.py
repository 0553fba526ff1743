"""Changes one line of the code at a time, at random, and counts how many changes a test notices.

    .venv/bin/python scripts/mutate.py -n 200 --seed 1

Each change is made in a copy of the repository, and tests run there until the first one fails: those that
reach the changed line, the module's own and the smaller ones first. Which tests reach which lines, also in
processes that they start, is found by the whole suite, once for a state of code and tests, in a quarter of
an hour. Two changes are tried at a time. What no test notices is printed.

Main entry: `main`. Invariant: the working tree is only read.
"""

import argparse
import ast
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/conjure")
TIMEOUT_S = 300
JOBS = 2  # changes tried at a time, each in a copy of its own
MOST_TESTS = 20  # of a folder that are asked: what only others notice counts as not noticed

# What is mutated.
TARGETS = ("runs/lifecycle", "runs/schema", "lm/training", "lm/report")
# The smaller ones first.
_FOLDERS = ("unit", "property", "integration", "parity", "e2e", "story")
_SUITE = (
    "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "-q", "-p", "contexts", "tests", "tests/story",
)  # fmt: skip
# Loaded into each of the suite's processes: what runs from now on, there or in a process that is started, is
# reached by this test.
_PLUGIN = """
import os
import coverage, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    running = coverage.Coverage.current()
    running.switch_context(item.nodeid)
    running.config.context = item.nodeid
    os.environ["COVERAGE_PROCESS_CONFIG"] = running.config.serialize()
"""
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
    with tempfile.TemporaryDirectory(prefix="conjure-mutate-") as folder, ThreadPoolExecutor(JOBS) as threads:
        made = [_copy_to(Path(folder) / f"copy-{number}") for number in range(JOBS)]
        reached = _lines_reached(made[0])
        copies: queue.Queue[Path] = queue.Queue()
        for copy in made:
            copies.put(copy)
        tried = threads.map(lambda mutation: _try(copies, mutation, _tests_of(mutation, reached)), chosen)
        for number, (mutation, (killed, seconds)) in enumerate(zip(chosen, tried, strict=True), 1):
            noticed += killed
            where = f"{mutation.module}:{mutation.line}: {_line(mutation)} → {mutation.text}"
            word = "noticed" if killed else "SURVIVED"
            sys.stdout.write(f"{number}/{len(chosen)} {word} in {seconds:.0f} s  {where}\n")
            sys.stdout.flush()
    share = noticed / len(chosen)
    sys.stdout.write(
        f"{noticed} of {len(chosen)} mutations noticed ({share:.0%}), of {len(every):,} possible ones\n"
    )
    return 0 if share >= options.at_least else 1


def _copy_to(copy: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv*", ".coverage", ".cache")
    return Path(shutil.copytree(ROOT, copy, ignore=ignored))


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


def _lines_reached(copy: Path) -> coverage.CoverageData:
    """Which tests reach which lines: by the suite, run once for a state of code and tests."""
    trees = subprocess.check_output(["git", "rev-parse", "HEAD:src", "HEAD:tests"], cwd=ROOT, text=True)
    found = ROOT / ".coverage" / f"reached-{'-'.join(tree[:12] for tree in trees.split())}"
    if not found.exists():
        (copy / "reached.ini").write_text(
            f"[run]\nbranch = true\nsource_pkgs = conjure\ndata_file = {copy}.reached/data\nparallel = true\n"
            "patch = subprocess, fork, _exit\nsigterm = true\n"
            f"[paths]\nsource =\n    {ROOT}/src/conjure\n    {copy}/src/conjure\n"
        )
        (copy / "contexts.py").write_text(_PLUGIN)
        folder = Path(f"{copy}.reached")  # not in the copy: runs would take it along as code
        folder.mkdir()
        run = [sys.executable, "-m", "coverage", "run", "--rcfile=reached.ini", "-m", "pytest", *_SUITE]
        # Some tests look at what is imported, and fail because this is more.
        subprocess.run(run, cwd=copy, env=_variables(copy), check=False)
        combine = [sys.executable, "-m", "coverage", "combine", "--rcfile=reached.ini", "--quiet"]
        subprocess.run(combine, cwd=copy, check=True)
        found.parent.mkdir(exist_ok=True)
        shutil.move(folder / "data", found)
    data = coverage.CoverageData(str(found))
    data.read()
    return data


def _try(copies: "queue.Queue[Path]", mutation: Mutation, tests: Iterator[list[str]]) -> tuple[bool, float]:
    """Whether a test notices the change, and the seconds that took."""
    copy, began = copies.get(), time.monotonic()
    module = copy / mutation.module
    original = module.read_bytes()
    module.write_bytes(original[: mutation.start] + mutation.text.encode() + original[mutation.end :])
    try:
        return any(_fails(copy, some) for some in tests), time.monotonic() - began
    finally:
        module.write_bytes(original)
        copies.put(copy)


def _tests_of(mutation: Mutation, reached: coverage.CoverageData) -> Iterator[list[str]]:
    """Tests to ask, in turn: those that reach the line, the ones that are most about the module first."""
    inside = mutation.module.relative_to(PACKAGE)
    own = f"tests/unit/{inside.parent}/test_{inside.name}"
    by_line = reached.contexts_by_lineno(str(ROOT / mutation.module))
    line = max((each for each in by_line if each <= mutation.line), default=0)  # of the statement's begin
    closeness = _closeness(by_line)
    # Of a process that ends without a word no line is known: those that know the module are asked.
    tests = [test for test in by_line.get(line, []) if test] or list(closeness)
    if first := sorted(test for test in tests if test.startswith(own)):
        yield first
    others = sorted(set(tests) - set(first), key=lambda test: (-closeness[test], test))
    for folder in _FOLDERS:
        if those := [test for test in others if test.startswith(f"tests/{folder}/")]:
            yield sorted(those[:MOST_TESTS])


def _closeness(by_line: dict[int, list[str]]) -> dict[str, float]:
    """How much each test is about a module: it reaches many of its lines, and such as few others reach."""
    found: dict[str, float] = defaultdict(float)
    for tests in by_line.values():
        for test in filter(None, tests):
            found[test] += 1 / len(tests)
    return found


def _variables(copy: Path) -> dict[str, str]:
    paths = f"{copy / 'src'}{os.pathsep}{copy}"
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def _fails(copy: Path, tests: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=_variables(copy), capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return True  # it hangs, which somebody would notice
    return done.returncode not in (0, 5)  # 5: no test was found


if __name__ == "__main__":
    sys.exit(main())
