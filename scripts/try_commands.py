"""Runs the commands that the project names, in a clean clone, and tells those that do not end as they should.

    scripts/clean-environment python3 scripts/try_commands.py

The commands are collected: the Makefile's targets, the lines of plain fenced blocks in README, docs/ and
examples/, and code in their prose that begins with a program's name. One in `SHORTENED` runs in another
form, one in `LEFT_OUT` does not run, and every other runs as it stands. The ``console`` blocks are run by
transcripts.py. Only what is committed is tried.

Main entry: `main`. Invariants: needs Python and git only; nothing is written outside a temporary folder.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ("conjure", "make", "pip", "pipx", "python", "source", "uv")
_FOLDERS = ("benchmarks/", "scripts/", ".venv/bin/")
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_TARGET = re.compile(r"^([a-z][\w-]*):(?!=)", re.MULTILINE)
_PAGES_AT_A_TIME = 2  # whose console blocks are run; each has a home of its own

# Commands that run in another form: a regular expression for the whole command, what runs, and why.
SHORTENED = {
    r"benchmarks/run .*|make bench.*": ("benchmarks/run --help", "measures for minutes"),
    r"(?:\.venv/bin/)?python (benchmarks/(?!passes)\w+\.py).*": (
        r".venv/bin/python \1 --help",
        "takes minutes",
    ),
    r".*python -m (conjure\.compat\.\w+) .*": (r"python -m \1 --help", "needs GPT-2 from a hub"),
    r"python (examples/sprite/\w+\.py) .*": (r"python \1 --help", "trains for hours, on texts of the user's"),
    r"conjure finetune examples/jokes/jokes\.csv": (r"\g<0> --max-steps 20", "takes minutes"),
    r"pip uninstall conjure": (r"\g<0> --yes", "asks first"),
    r"(benchmarks/runs\.py) .*": (r".venv/bin/python \1 --help", "takes minutes"),
    r"conjure config set --project .*": (r"mkdir -p build && cd build && \g<0>", "writes into the project"),
    r"conjure (jupyter|web|chat)( (?!export).*)?": (r"conjure \1 --help", "goes on until it is told to end"),
}

# Commands that do not run: a regular expression for the whole command, and why.
LEFT_OUT = {
    r"make (check|test(-(?!all|images|jupyter|models|podman)\w+)?)": ".ci/run runs them",
    r"make (soak-cluster|test-(images|jupyter|podman))": "takes hours, or is for before a release",
    r"make (unit|coverage|test-all)": "runs tests that `make test` runs, too",
    r"make commands": "this",
    r"make test-models|conjure .*\bsmollm2.*": "needs a model of 98 MB; .ci/run tests it",
    r"(pip|pipx|uv tool|uv pip) install .*\"\.\[(all|lm)\]\"": "downloads gigabytes, as `make setup` does",
    r"scripts/install-torch .*": "`make setup` does the same",
    r"make dist": "installs for minutes what `make setup` installs",
    r"uv pip install \.": "`make dist` does the same",
    r"conjure .*\[OPTIONS\].*": "a usage line, made from the code; tests/docs hold it",
    r"conjure .*\b(FOLDER|MODEL|N|URL)\b.*": "has a placeholder; tests/docs hold its options",
    r"conjure finetune (jokes\.csv|poems/).*": "files of the user's; tests/docs hold its options",
    r"conjure (run|sweep) .*\b(jokes\.csv|train\.(py|toml)).*": "the same",
    r"conjure (project|ps --project|web export) .*": "runs of the user's; tests/docs hold its options",
    r"conjure run --image .*": "needs a registry; tests/images hold its options",
    r"conjure run --sandbox --network .*": "needs the network of the user's; tests/sandbox hold its options",
    r"benchmarks/workers/.*": "is for the benchmark's model",
    r"conjure .*--model (gpt2|runs/3) .*|conjure run .*URL.*": "GPT-2 from a hub, for hours",
    r"conjure run -m runs/5/output .*|conjure run -m runs/2/data\.txt .*": "GPT-2 from a hub, for hours",
    r"scripts/sanitize-native": "compiles with sanitizers, and repeats tests for minutes",
    r"\.venv/bin/python scripts/transcripts\.py .*": "its blocks are run, with --check",
    r"\.venv/bin/python benchmarks/passes\.py": "measures for minutes",
    r"python -X importtime .*": "a measurement of click",
    r"python -m conjure\.compat\.…|pip|python|make|uv": "a name, no command",
    r"scripts/make-home-fixture": "makes what the tests have of a released version, once",
    r"benchmarks/[\w./-]*|scripts/[\w./-]*\.py": "a file or folder, no command",
}


def commands(clone: Path) -> Iterator[tuple[str, str]]:
    """Every command that the project names, once, with where it was found first."""
    seen = set()
    for place, command in _named(clone):
        if command not in seen:
            seen.add(command)
            yield place, command


def _named(clone: Path) -> Iterator[tuple[str, str]]:
    yield "Makefile", "make setup"
    for target in _TARGET.findall((clone / "Makefile").read_text()):
        if target != "clean":
            yield "Makefile", f"make {target}"
    for page in pages(clone):
        place = str(page.relative_to(clone))
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match["language"] == "":
                yield from ((place, command) for command in block_commands(match["content"], place))
        for code in _INLINE.findall(_FENCE.sub("", text)):
            if code.startswith(_FOLDERS) or (code.split()[0] in PROGRAMS and not code.startswith("conjure")):
                yield place, code
    yield "Makefile", "make clean"


def pages(clone: Path) -> list[Path]:
    """The pages with commands in them."""
    return [
        clone / "README.md",
        *sorted(clone.glob("docs/**/*.md")),
        *sorted(clone.glob("examples/**/README.md")),
    ]


def block_commands(content: str, place: str) -> Iterator[str]:
    """The commands of a plain fenced block, without their comments."""
    for line in content.replace("\\\n", " ").splitlines():
        command = re.sub(r"\s+", " ", re.sub(r"\s+# .*", "", line)).strip()
        if not command:
            continue
        if not (command.startswith(_FOLDERS) or command.split()[0] in PROGRAMS):
            sys.exit(
                f"{place}: `{line}` begins with no known program; mark a block without commands as ```text"
            )
        yield command


def form(command: str) -> tuple[str | None, str]:
    """What runs for a command, None for nothing, and why it is not the command itself."""
    for pattern, reason in LEFT_OUT.items():
        if re.fullmatch(pattern, command):
            return None, reason
    for pattern, (shorter, reason) in SHORTENED.items():
        if match := re.fullmatch(pattern, command):
            return match.expand(shorter), reason
    return command, ""


class Trial:
    """Runs commands in a clone, and keeps those that failed."""

    def __init__(self, root: Path) -> None:
        """Clone what is committed."""
        self.clone = root / "conjure"
        self.failed: list[str] = []
        self._light = root / "light"
        self._homes = root / "homes"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, self.clone], check=True)

    def run_blocks(self, page: Path) -> None:
        """Run the console blocks of a page."""
        place = str(page.relative_to(self.clone))
        say(f"{place}: its console blocks")
        self.run(f".venv/bin/python scripts/transcripts.py --check {place}", place)

    def run(self, command: str, place: str) -> None:
        """Run one in the root of the clone; a place has a home, so that its runs count from 1."""
        folder = self._light if command.startswith("pip ") else self.clone / ".venv"
        if command.startswith("pip "):
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.clone,
            env={
                **os.environ,
                "CONJURE_HOME": str(self._homes / place),
                "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PYTHON": sys.executable,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.monotonic() - started
        if done.returncode == 0:
            say(f"  ok, {seconds:.0f} s: {command}")
        else:
            say(f"  FAILED, {seconds:.0f} s: {command}\n{done.stdout[-4000:]}")
            self.failed.append(command)

    def changes(self) -> str:
        """What the commands changed in the clone's tracked files."""
        status = ["git", "-C", self.clone, "status", "--porcelain"]
        return subprocess.run(status, check=True, capture_output=True, text=True).stdout


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Try everything; the exit status is 1 if something failed."""
    with tempfile.TemporaryDirectory(prefix="conjure-commands-", ignore_cleanup_errors=True) as folder:
        trial = Trial(Path(folder).resolve())
        *named, last = commands(trial.clone)
        tried = set()
        for place, command in named:
            runs, reason = form(command)
            if runs is None or runs in tried:
                say(f"{place}: {command}\n  not run: {reason or 'it was'}")
                continue
            say(f"{place}: {command}" + (f"\n  as `{runs}`: {reason}" if reason else ""))
            tried.add(runs)
            trial.run(runs, place)
        blocks = {page: page.read_text().count("```console") for page in pages(trial.clone)}
        longest_first = sorted(filter(blocks.get, blocks), key=lambda page: -blocks[page])
        with ThreadPoolExecutor(_PAGES_AT_A_TIME) as threads:
            list(threads.map(trial.run_blocks, longest_first))  # raises what one of them raised
        if changes := trial.changes():
            say(f"The commands changed files of the clone:\n{changes}")
            trial.failed.append("git status --porcelain")
        trial.run(last[1], last[0])
    say(
        f"Failed: {', '.join(trial.failed)}"
        if trial.failed
        else "Every command that was run ended as it should."
    )
    return 1 if trial.failed else 0


if __name__ == "__main__":
    sys.exit(main())
