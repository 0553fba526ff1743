"""Every `try:` line that a mistake brings forth is a command that a shell reads, and that works."""

import gzip
import re
import shlex
import shutil
import subprocess

import pytest

from support.casting import nap
from support.models import tiny_checkpoint
from support.terminal import TIMEOUT_S, conjure, environment

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


def run(folder, line, **variables):
    """A line as a person types it: bash reads it, and `conjure` gets the words that it made of it."""
    script = f"conjure() {{ printf '%s\\0' \"$@\"; }}\n{line}"
    read = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S
    )
    *words, end = read.stdout.split("\0")
    if not words:
        return read  # it calls another program
    assert (read.returncode, read.stderr, end) == (0, "", "")
    return conjure(*words, folder=folder, variables={**environment(), **variables})


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
    works_when_tried(here, mistake)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home and a folder: run 1 made a file, run 2 used it, a link leads to run 1, an upload has a file."""
    root = tmp_path_factory.mktemp("made")
    (root / "project" / "folder").mkdir(parents=True)
    (root / "project" / "folder" / "data.csv").touch()
    for line in (
        "conjure run 'echo x > data.txt'",
        "conjure run -m runs/1/data.txt 'cp data.txt copy.txt'",
        "conjure link best runs/1",
        "conjure cp runs/2/copy.txt .",
        "echo y > 'my file' && conjure upload 'my file' --name given",
    ):
        done = run(root / "project", line, CONJURE_HOME=str(root / "home"))
        assert done.returncode == 0, done.stderr
    return root


WITH_RUNS = [
    "conjure rm runs/1",
    "conjure rm runs/2/copy.txt",
    "conjure link best runs/2",
    "conjure unlink bset",
    "conjure cp runs/2/copy.txt .",
    "conjure run -m 'my file:in.txt' true",
    "conjure run --mount='my file:./in.txt:ro' cat in.txt",
    "conjure run -m folder true",
    "conjure ls 'my file'",
    "conjure rm folder",
    "conjure run -m runs/1/dta.txt true",
    "conjure info last~9",
    "conjure logs 9",
    "conjure rerun 9",
    "conjure ls runs/1/dta.txt",
    "conjure ls uploads/gven",
    "conjure rm uploads/gven",
    "conjure recover 1",
    "conjure report 1",
    "conjure generate --model runs/1",
    "conjure export runs/1 out",
]


@pytest.mark.parametrize("mistake", WITH_RUNS)
def test_what_is_to_be_tried_works_on_runs(made, tmp_path, monkeypatch, mistake):
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "copy" / "home"))
    works_when_tried(tmp_path / "copy" / "project", mistake)


@pytest.mark.parametrize("mistake", ["conjure archive 1", "conjure rm runs/1", "conjure recover 1"])
def test_what_is_to_be_tried_works_on_a_run_that_goes_on(here, mistake):
    assert run(here, f"conjure run -b 'exec sleep {nap(88000)}'").returncode == 0
    try:
        works_when_tried(here, mistake)
    finally:
        run(here, "conjure kill 1")


def works_when_tried(here, mistake):
    """See that a mistake's line `try:` is a command that a shell reads, and that ends well."""
    done = run(here, mistake)
    assert done.returncode not in (0, 70), done.stderr
    assert "Traceback" not in done.stderr
    line = tried(done)
    options = re.findall(r" (--[a-z-]+)", line)
    assert len(options) == len(set(options)), line  # what is corrected is replaced
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line)
    again = run(here, line)
    assert again.returncode == 0, (line, again.stderr)
    assert not (here / "made").exists()
