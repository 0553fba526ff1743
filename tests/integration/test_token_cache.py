"""Token ids under real processes: several at once, and killed in the middle of writing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.lm.text.records import read_records
from conjure.lm.text.token_cache import tokenise
from support.models import tiny_tokenizer
from support.records import many_records, write_records

# Tokenises argv[1] into argv[2]; with a third argument it stops for good after that many batches.
PROGRAM = """
import sys, time
from pathlib import Path
from conjure.lm.text import token_cache
from conjure.lm.text.records import read_records
from conjure.lm.text.tokenizer import Tokenizer

token_cache._BATCH_CHARACTERS = 500
file, cache, *stop = sys.argv[1:]
seen = 0

def progress(done, total):
    global seen
    seen += 1
    if stop and seen == int(stop[0]):
        print("writing", flush=True)
        time.sleep(600)

tokenizer = Tokenizer.from_folder(Path(cache).parent / "tokenizer")
print(len(token_cache.tokenise(read_records([file]), tokenizer, cache=Path(cache), progress=progress).ids))
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tiny_tokenizer().save(tmp_path / "tokenizer")
    return write_records(tmp_path / "records.csv", many_records(200))


def start(file: Path, *stop: int) -> subprocess.Popen[str]:
    arguments = [str(file), str(file.parent / "cache"), *map(str, stop)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)


def ids(file: Path, cache: str = "cache") -> list[int]:
    return tokenise(read_records([file]), tiny_tokenizer(), cache=file.parent / cache).ids.tolist()


def test_several_processes_at_once_make_one_text(file):
    processes = [start(file) for _ in range(3)]
    counts = {process.communicate()[0].strip() for process in processes}
    assert counts == {str(len(ids(file, "other")))}
    assert len([path for path in (file.parent / "cache").iterdir() if path.is_dir()]) == 1
    assert ids(file) == ids(file, "other")


@pytest.mark.parametrize("batches", [1, 8])
def test_a_process_killed_while_writing_costs_nothing(file, batches):
    with start(file, batches) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert ids(file) == ids(file, "other")
    assert not list((file.parent / "cache").glob("*.unfinished"))


def test_a_second_process_goes_on_when_the_first_is_killed(file):
    with start(file, 2) as first:
        assert first.stdout.readline() == "writing\n"
        second = start(file)
        first.send_signal(signal.SIGKILL)
    assert second.communicate()[0].strip() == str(len(ids(file, "other")))
