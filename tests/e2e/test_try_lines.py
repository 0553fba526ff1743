"""Every `try:` line that a mistake brings forth is a command that a shell reads, and that works."""

import gzip
import os
import re
import shlex
import subprocess

import pytest

from support.models import tiny_checkpoint
from support.terminal import CONJURE, TIMEOUT_S, environment

ODD = 'a \' $(touch made) \t; "b".csv'  # no part of a name may be a command
RUSSIAN = "Часы шли, а времени не было. Он встал и сел.\n"
TWO_COLUMNS = "Joke Text,It's one\nThe clock ran late.,Yet another clock.\nHe sat down.,She stood up.\n"


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "two.csv").write_text(TWO_COLUMNS)
    (folder / ODD).write_text(TWO_COLUMNS)
    (folder / "notes").write_text("He said so.\nShe did not.\n")
    (folder / "old file.txt").write_bytes(RUSSIAN.encode("cp1251") * 9)
    (folder / "inside.json").write_text('{"my jokes": [{"text": "One."}, {"text": "Two."}]}')
    (folder / "table.txt").write_text("a b\n")
    with gzip.open(folder / "packed.gz", "wb") as file:
        file.write(b"One joke.\n")
    tiny_checkpoint(folder / "my model")
    return folder


def run(folder, line):
    """A line as a person types it, in bash."""
    path = f"{CONJURE.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env={**environment(), "PATH": path},
    )


def tried(done):
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("  try: ")]
    return line.removeprefix("  try: ")


# Mistakes that have a remedy to type.
MISTAKES = [
    "conjure data preview two.csv",
    "conjure data preview two.csv --column 'Joke Txt'",
    f"conjure data preview {shlex.quote(ODD)}",
    f'conjure data preview {shlex.quote(ODD)} --column "It\'s on"',
    f"conjure data preview -n 1 -- {shlex.quote(ODD)}",
    "conjure data preview notes",
    "conjure data preview 'old file.txt'",
    "conjure score notes two.csv --model './my model'",
    "conjure finetune two.csv --dry-run --model './my model'",
    "conjure finetune table.txt --dry-run --model './my model' --block-size 4096",
    "conjure finetune notes --dry-run --split lines --model './my model'",
    "conjure finetune notes --dry-run --format txt --split lines --model './my model' --freeze 99",
    "conjure export './my model' gguf",
    "conjure export './my model' SafeTensors",
    "conjure generate --prompt-file 'old file.txt'",
    "conjure ls nowhere",
    "conjure ls runs/9",
    "conjure info 9",
    "conjure cp uploads/none .",
    "conjure unlink none",
    "conjure report",
    "conjure generate --no-such-option",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_to_be_tried_works(here, mistake):
    done = run(here, mistake)
    assert done.returncode not in (0, 70), done.stderr
    assert "Traceback" not in done.stderr
    line = tried(done)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line)
    again = run(here, line)
    assert again.returncode == 0, (line, again.stderr)
    assert not (here / "made").exists()
