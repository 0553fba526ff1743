"""What every test has: a home folder of its own, no network, one thread per process."""

import gc
import io
import os
import signal
import socket
import sys
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from conjure.core.home import Home
from support.casting import ending_runs

# Before torch is imported anywhere: several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine may say so, and every process that a test starts would compile all of conjure anew: a second each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Runs under test call `python`: the one that the tests have, whatever else a machine calls so, or does not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# A job in the background is started with ^C ignored, one under nohup with the terminal's end ignored, and
# either would be handed on to every command under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test looks at the clock: the first example of one may import pyarrow, on a machine that does other work.
# The suite tries the same examples each time; `scripts/fuzz` looks for others.
hypothesis.settings.register_profile("conjure", deadline=None, derandomize="FUZZ_EXAMPLES" not in os.environ)
hypothesis.settings.load_profile("conjure")

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


# Each needs programs or packages beside, and has a target in the Makefile: not even imported unless named.
collect_ignore = ["cluster", "images", "jupyter", "models", "sandbox", "serve", "story", "web"]


def pytest_collection_finish():
    """Leave what stays to the end, torch and thousands of tests, out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Where the tests' homes are, each with a number."""
    return (tmp_path_factory.mktemp("homes") / str(number) for number in count(1))


@pytest.fixture(autouse=True)
def conjure_home(homes, monkeypatch):
    """A home for each test, not made yet, so that none meets another's runs, or the developer's own."""
    home = next(homes)
    monkeypatch.setenv("CONJURE_HOME", str(home))
    return home


@pytest.fixture
def home(conjure_home):
    return Home(conjure_home)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty, and no repository."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def client(home, folder):
    """Starts real runs, which end with the test."""
    with ending_runs(home) as client:
        yield client


@pytest.fixture
def short_reports(monkeypatch):
    """Few samples of each model in reports made in this process: for tests of something else."""
    from conjure.lm.training import base_model_comparison

    monkeypatch.setattr(base_model_comparison, "_REPORT_SAMPLES", 3)


@pytest.fixture(autouse=True, scope="session")
def no_file_left_open(tmp_path_factory):
    """Nothing keeps a file of a test open to the end: Python would warn of each, below the suite's output."""
    yield
    gc.collect()
    root = str(tmp_path_factory.getbasetemp())
    files = [each for each in gc.get_objects() if type(each) is io.FileIO and not each.closed]
    assert [str(each.name) for each in files if str(each.name).startswith(root)] == []


@pytest.fixture(autouse=True)
def handler_of_interrupts():
    """Puts back what handles a ^C: a command that runs in the process of a test leaves its own handler."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Only loopback can be reached."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in _LOOPBACK:
            raise OSError(f"tests reach no network, and this one tried {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
