"""Runs the commands that docs/ shows, and puts what they print into the pages.

    .venv/bin/python scripts/transcripts.py docs/runs.md README.md …
    .venv/bin/python scripts/transcripts.py --check docs/runs.md README.md …

Every ``console`` block of a page is run in order, in one new folder and with one new ``CONJURE_HOME``, so
that a page's runs count from 1. Right before a block an HTML comment may stand:

    <!-- before: SHELL -->            shell lines to run first, unseen (several lines are allowed)
    <!-- without: REGEX -->           lines of output to leave out, such as speeds on a busy machine
    <!-- not recorded: REASON -->     leave the block as it is
    <!-- status: N N … -->            how its commands end, one number each; without it, all end with 0

With ``--check`` the pages stay as they are, and only how the commands end is compared.

Main entry: `main`. Invariants: a block's commands are never changed, only what follows them; a page is not
written if one of its commands ends otherwise than it says.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_COMMENT = r"<!-- (?:(?!-->).)*-->\n"
_BLOCK = re.compile(rf"(?P<notes>(?:{_COMMENT})*)```console\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE)
_NOTE = re.compile(r"<!-- (?P<kind>before|without|not recorded|status): (?P<text>.*?) -->\n", re.DOTALL)
_PROMPT = "$ "


@dataclass
class Session:
    """A folder to work in and a home for the runs, for one page."""

    root: Path
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make the folder, with the repository's examples in it."""
        self.folder = self.root / "work"
        self.folder.mkdir()
        (self.folder / "examples").symlink_to(REPOSITORY / "examples")

    def record(self, match: re.Match[str]) -> str:
        """A block of the page, run anew."""
        notes = [(note["kind"], note["text"]) for note in _NOTE.finditer(match["notes"])]
        if any(kind == "not recorded" for kind, _ in notes):
            return match[0]
        for kind, text in notes:
            if kind == "before":
                self._run(text)
        unwanted = [re.compile(text) for kind, text in notes if kind == "without"]
        shown = list(commands(match["content"]))
        statuses = [int(word) for kind, text in notes if kind == "status" for word in text.split()]
        expected = statuses or [0] * len(shown)
        parts = (
            self._transcript(command, unwanted, status)
            for command, status in zip(shown, expected, strict=True)
        )
        transcript = "\n".join(parts).rstrip() + "\n"
        return f"{match['notes']}```console\n{transcript}```"

    def _transcript(self, command: str, unwanted: list[re.Pattern[str]], status: int) -> str:
        sys.stderr.write(f"{_PROMPT}{command}\n")
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve()
            return _PROMPT + command
        lines = self._run(command, status).splitlines()
        kept = [line.rstrip() for line in lines if not any(each.search(line) for each in unwanted)]
        return "\n".join([_PROMPT + command, *kept, ""])

    def _run(self, command: str, status: int = 0) -> str:
        variables = {
            **os.environ,
            "CONJURE_HOME": str(self.root / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "90",
        }
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if "Traceback (most recent call last)" in done.stdout:
            sys.exit(f"nothing is written, for this raised an error:\n{command}\n{done.stdout}")
        if done.returncode != status:
            sys.exit(f"this ended with {done.returncode}, not with {status}:\n{command}\n{done.stdout}")
        return self._without_paths(done.stdout)

    def _without_paths(self, text: str) -> str:
        """No path of this machine in what is published."""
        names = {
            self.root / "home": "~/.local/share/conjure",
            self.root / "work": "~",
            Path(sys.prefix): "~/.venv",
            REPOSITORY: "~/conjure",
        }
        for path, name in names.items():
            text = text.replace(str(path), name)
        return text


def commands(content: str) -> Iterator[str]:
    """The commands of a console block: what follows a ``$``, with the lines a backslash joins to it."""
    lines = iter(content.splitlines())
    for line in lines:
        if line.startswith(_PROMPT):
            command = line.removeprefix(_PROMPT)
            while command.endswith("\\"):
                command += "\n" + next(lines)
            yield command


def main(pages: list[str], *, check: bool = False) -> None:
    """Record the pages again, or only run their commands."""
    for page in map(Path, pages):
        with tempfile.TemporaryDirectory() as root:
            session = Session(Path(root).resolve())
            recorded = _BLOCK.sub(session.record, page.read_text())
            if not check:
                page.write_text(recorded)


if __name__ == "__main__":
    main([page for page in sys.argv[1:] if page != "--check"], check="--check" in sys.argv)
