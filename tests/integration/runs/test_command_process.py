"""Real processes of commands: what they print, how they end, and that nobody is left."""

import os
import re
import shlex
import signal
import time

import pytest

from conjure.runs.executors import command_process
from conjure.runs.executors.command import Exit, Job, NotStartedError
from conjure.runs.executors.command_process import start_command
from conjure.runs.telemetry.logs import STDERR, STDOUT
from support.casting import is_running, nap, wait_until
from support.executions import read_to_end, supervising


@pytest.fixture
def start(tmp_path):
    """Starts shell lines as a supervisor would."""
    with supervising() as begin:
        yield lambda line: begin(start_command, Job(("bash", "-c", line), tmp_path, dict(os.environ)))


DAEMON = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(float(sys.argv[1]))"
)


def read_until_ready(execution):
    said = b""
    while b"ready\n" not in said:
        said += b"".join(data for _, data in execution.read(0.1))


def test_what_is_printed_and_how_it_ends(start):
    execution = start("echo out; echo err >&2; exit 3")
    assert read_to_end(execution) == {STDOUT: b"out\n", STDERR: b"err\n"}
    assert execution.exit == Exit(code=3)


def test_an_end_by_a_signal(start):
    execution = start("kill -SEGV $$")
    read_to_end(execution)
    assert execution.exit == Exit(signal=signal.SIGSEGV)


def test_nothing_that_was_printed_is_lost(start):
    execution = start("seq 200000; seq 200000 >&2")
    expected = "".join(f"{number}\n" for number in range(1, 200001)).encode()
    assert read_to_end(execution) == {STDOUT: expected, STDERR: expected}


def test_there_is_nothing_to_read_from_stdin(start):
    execution = start("cat; echo done")
    assert read_to_end(execution)[STDOUT] == b"done\n"


def test_terminating_reaches_the_whole_group(start):
    execution = start(f"sleep {nap(86111)} & sleep {nap(86111)} & wait")
    wait_until(lambda: is_running(nap(86111)), "the sleeps")
    execution.terminate()
    read_to_end(execution)
    assert execution.exit == Exit(signal=signal.SIGTERM)
    assert not is_running(nap(86111))


def test_what_was_asked_to_end_is_not_asked_again_when_the_command_has_ended(start):
    counting = (
        "import os, signal, time\n"
        "until = time.monotonic() + 60\n"
        "def asked(*_):\n"
        " global until\n"
        " os.write(1, b'asked\\n')\n"
        " until = time.monotonic() + 0.5\n"
        "signal.signal(signal.SIGTERM, asked)\n"
        "os.write(1, b'ready\\n')\n"
        "while time.monotonic() < until:\n time.sleep(0.01)"
    )
    execution = start(f"trap 'exit 5' TERM; python -c {shlex.quote(counting)} & wait")
    read_until_ready(execution)
    execution.terminate()
    assert read_to_end(execution)[STDOUT] == b"asked\n"
    assert execution.exit == Exit(code=5)


def test_what_a_shell_started_has_time_to_save_when_it_is_asked_to_end(start, tmp_path, monkeypatch):
    """The shell itself ends at once."""
    monkeypatch.setattr(command_process, "_LEFTOVERS_GRACE_S", 0.05)
    saver = (
        "import signal, sys, time\n"
        "def save(*_):\n time.sleep(0.5)\n open('saved.txt', 'w').write('saved')\n sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    execution = start(f"python3 -c {shlex.quote(saver)}; echo never")
    read_until_ready(execution)
    execution.terminate()
    read_to_end(execution)
    assert (tmp_path / "saved.txt").read_text() == "saved"


def test_killing_reaches_what_left_the_group(start):
    execution = start(
        f"trap '' TERM; setsid sleep {nap(86222)} & (setsid sleep {nap(86222)} &) ; echo ready; wait"
    )
    while not execution.read(0.1):
        pass
    wait_until(lambda: is_running(nap(86222)), "the sleeps")
    execution.kill()
    read_to_end(execution)
    assert execution.exit == Exit(signal=signal.SIGKILL)
    assert not is_running(nap(86222))


@pytest.mark.parametrize(
    "line",
    [
        "sleep $NAP & echo x",
        "setsid nohup sleep $NAP >/dev/null 2>&1 & echo x",
        "(setsid bash -c 'setsid sleep $NAP & exit' &) ; sleep 0.1; echo x",
        f"python3 -c '{DAEMON}' $NAP & echo x",
    ],
)
def test_what_a_command_leaves_running_is_ended_with_it(start, line):
    execution = start(line.replace("$NAP", nap(86333)))
    assert read_to_end(execution)[STDOUT] == b"x\n"
    assert execution.exit == Exit(code=0)
    wait_until(lambda: not is_running(nap(86333)), "the end of what was left")


def test_the_usage_of_a_command_is_measured(start, tmp_path):
    execution = start("python3 -c 'x = bytearray(60_000_000)\nfor i in range(3_000_000): pass'")
    while execution.exit is None:
        execution.usage()
        execution.read(0.05)
    used = execution.usage()
    assert used.cpu_s > 0.02
    assert used.peak_memory_bytes > 60_000_000


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (
            "#!/bin/sh\r\n",
            "its first line has a Windows line ending (CRLF); `sed ",
        ),
        ("#!/no/such/python3 -u\n", "its first line names '/no/such/python3 -u', which does not exist"),
    ],
)
def test_a_script_whose_interpreter_is_not_there(tmp_path, first, why):
    script = tmp_path / "run.sh"
    script.write_bytes(f"{first}echo".encode())
    script.chmod(0o755)
    with pytest.raises(NotStartedError, match=re.escape(f"./run.sh: {why}")) as caught:
        start_command(Job(("./run.sh",), tmp_path, dict(os.environ)), lambda _: True)
    assert caught.value.exit_code == 127


def test_no_such_program(tmp_path):
    with pytest.raises(NotStartedError, match="no-such-program: command not found") as caught:
        start_command(Job(("no-such-program", "x"), tmp_path, dict(os.environ)), lambda _: False)
    assert caught.value.exit_code == 127


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "plain").write_text("hello")
    with pytest.raises(NotStartedError, match="Permission denied") as caught:
        start_command(Job(("./plain", "x"), tmp_path, dict(os.environ)), lambda _: False)
    assert caught.value.exit_code == 126


def test_the_command_dies_with_its_supervisor(tmp_path):
    job = Job(("sleep", nap(86444)), tmp_path, dict(os.environ))
    supervisor = os.fork()
    if supervisor == 0:
        start_command(job, lambda _: False)
        time.sleep(600)
        os._exit(0)
    wait_until(lambda: is_running(nap(86444)), "the command")
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    wait_until(lambda: not is_running(nap(86444)), "the command's end")
