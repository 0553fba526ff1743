"""Signals and kills that come at odd moments: a run ends as it was told to, and nothing of it is left."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from conjure.metric_logging import RUN_VARIABLE
from conjure.python_api import Run
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import KILL_SIGNAL, boot_id, find_process
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import submit
from conjure.runs.schema.run_folder import MARKS_FILE
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import (
    UNTIL_GO,
    is_running,
    nap,
    release,
    supervisor_of,
    wait_for_status,
    wait_until,
)
from support.terminal import CONJURE

PASSED_BY = [
    getattr(signal, name)
    for name in ("SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGHUP")
] + [signal.SIGINT, signal.SIGTSTP, signal.SIGTTOU, signal.SIGRTMIN, signal.SIGRTMAX]


def started(client, line, **options):
    """A run that has printed ``ready``."""
    run = client.run(line, **options)
    wait_until(lambda: list(run.logs()), "the command's start")
    return run


def has_ended(pid):
    """Whether a process is over, waited for or not: other tests make this process the parent of orphans."""
    process = find_process(pid)
    return process is None or process.is_zombie


def test_signals_that_the_caller_blocks_reach_a_run_all_the_same(client):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        run = client.run("grep SigBlk /proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    run.wait(check=True)
    assert [line.split()[1].strip("0") for line in run.logs()] == [""]


def test_what_a_killed_supervisor_leaves_comes_to_its_guard(client):
    """It finds what is in a session of its own, and has none of the run's variables."""
    run = started(client, f"setsid env -i sleep {nap(88675)} & echo $!; wait")
    supervisor = supervisor_of(run)
    (line,) = run.logs()
    wait_until(lambda: is_running(nap(88675)), "the process in its own session")
    os.kill(supervisor.parent, signal.SIGSTOP)
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: find_process(int(line)).parent == supervisor.parent, "a new parent", patience_s=10)
    os.kill(supervisor.parent, signal.SIGCONT)
    wait_until(lambda: not is_running(nap(88675)), "the end of all")
    assert run.wait().status is RunStatus.INTERRUPTED


def test_other_signals_end_neither_supervisor_nor_guard(client):
    run = started(client, f"echo ready; {UNTIL_GO}")
    supervisor = supervisor_of(run)
    for number in PASSED_BY:
        os.kill(supervisor.pid, number)
        os.kill(supervisor.parent, number)
    release(run)
    assert run.wait().status is RunStatus.COMPLETE


def test_a_kill_by_signal_is_a_kill(client):
    run = started(client, f"echo ready; exec sleep {nap(87000)}")
    os.kill(supervisor_of(run).pid, KILL_SIGNAL)
    assert run.wait().status is RunStatus.KILLED
    assert not is_running(nap(87000))


@pytest.mark.parametrize("guard_too", [False, True])
def test_a_halted_supervisor_is_killed_and_its_run_with_it(client, guard_too):
    run = started(client, f"trap '' TERM; echo ready; sleep {nap(87111)} & wait")
    supervisor = supervisor_of(run)
    for pid in (supervisor.parent, supervisor.pid) if guard_too else (supervisor.pid,):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: find_process(pid).is_stopped, "the halt")
    record = run.kill().record
    assert (record.status, record.ending.reason) == (RunStatus.KILLED, EndReason.KILL_REQUESTED)
    assert read_record(run.home.run_folder(run.number)) == record
    wait_until(lambda: not is_running(nap(87111)), "the end of the command")
    wait_until(lambda: has_ended(supervisor.parent), "the end of the guard")


def test_a_halted_supervisor_that_is_to_stop_goes_on(client):
    run = started(client, "trap 'echo made > made; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    supervisor = supervisor_of(run)
    os.kill(supervisor.pid, signal.SIGSTOP)
    wait_until(lambda: find_process(supervisor.pid).is_stopped, "the halt")
    record = run.stop().record
    assert (record.status, record.outputs.files) == (RunStatus.STOPPED, 1)


ORPHANS = {
    # What it is known by afterwards -> a command whose orphan has that mark and no other.
    "cgroup": f"env -i setsid sleep {nap(87222)} >/dev/null 2>&1 & echo ready; wait",
    "pipes": f"env -i setsid sleep {nap(87222)} & echo ready; wait",
    "sessions": f"env -i setsid sleep {nap(87222)} >/dev/null 2>&1 & echo ready; wait",
}


@pytest.mark.parametrize("mark", ORPHANS)
def test_an_orphan_without_variables_and_session_is_found(client, home, mark):
    run = started(client, ORPHANS[mark])
    marks = home.run_folder(run.number) / MARKS_FILE

    def kept():
        stored = json.loads(marks.read_bytes())
        if mark == "cgroup" and stored["cgroup"] is None:
            pytest.skip("this machine has no control group that we may make one in")
        return len(stored["sessions"]) == 2 and stored

    wait_until(kept, "the look at the sessions")
    supervisor = supervisor_of(run)
    for pid in (supervisor.parent, supervisor.pid):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: find_process(pid).is_stopped, "the halt")
    nothing = {"cgroup": None, "pipes": [], "sessions": {}}
    stored = kept()
    marks.write_text(json.dumps(stored | nothing | {mark: stored[mark]}))
    for pid in (supervisor.parent, supervisor.pid):
        os.kill(pid, signal.SIGKILL)
    assert run.wait().status is RunStatus.INTERRUPTED
    wait_until(lambda: not is_running(nap(87222)), "the end of the orphan")
    assert not marks.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"boot_id": "another", "cgroup": null, "pipes": [], "sessions": {"1": null}}']
)
def test_marks_that_mean_nothing_end_nobody(home, content):
    with SqliteDatabase.open(home) as store:
        folder = home.run_folder(1)
        lock = RunLock.create(folder)
        (folder / MARKS_FILE).write_text(content)
        bystander = subprocess.Popen(["sleep", nap(87333)], start_new_session=True)
        store.create_run(RunSpec(command=("true",), folder=home.root), None, lambda _: None)
        lock.release()
    with open_store(home) as store:
        assert store.get(1).status is RunStatus.INTERRUPTED
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_session_whose_leader_is_another_process_now_is_not_the_runs(home):
    with SqliteDatabase.open(home) as store:
        folder = home.run_folder(1)
        lock = RunLock.create(folder)
        bystander = subprocess.Popen(["sleep", nap(87444)], start_new_session=True)
        marks = {"boot_id": boot_id(), "cgroup": None, "pipes": [], "sessions": {str(bystander.pid): "1"}}
        (folder / MARKS_FILE).write_text(json.dumps(marks))
        store.create_run(RunSpec(command=("true",), folder=home.root), None, lambda _: None)
        lock.release()
    with open_store(home) as store:
        assert store.get(1).status is RunStatus.INTERRUPTED
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_run_cast_within_one_outlives_the_kill_of_both_processes(client, home):
    """It is in no control group, session or pipe of the run that it was cast from."""
    inner = f"{CONJURE} run -b '{UNTIL_GO}; echo done'"
    run = started(client, f"{inner} >/dev/null; echo ready; sleep {nap(87555)}")
    second = Run(home, 2)
    wait_for_status(second, RunStatus.RUNNING)
    supervisor = supervisor_of(run)
    os.kill(supervisor.parent, signal.SIGSTOP)
    os.kill(supervisor.pid, signal.SIGKILL)
    os.kill(supervisor.parent, signal.SIGKILL)
    assert run.wait().status is RunStatus.INTERRUPTED
    release(second)
    assert second.wait().status is RunStatus.COMPLETE


@pytest.mark.parametrize("what", ["the home", "the run's folder"])
def test_what_is_removed_under_a_run_is_not_made_again(client, home, what):
    run = started(client, f"echo ready; exec sleep {nap(87666)}")
    supervisor = supervisor_of(run)
    gone = home.root if what == "the home" else home.run_folder(run.number)
    aside = gone.with_name("aside")
    gone.rename(aside)  # in one step; removing it takes many, and the run may write between them
    wait_until(lambda: has_ended(supervisor.parent), "the end of the guard")
    shutil.rmtree(aside)
    assert not is_running(nap(87666))
    assert not gone.exists()
    if what != "the home":
        assert run.status is RunStatus.KILLED


# ---- while a run is submitted -----------------------------------------------------------------------------


def press(*, after):
    """Send this process a ^C when `after` returns, as a user does who presses it at that moment."""

    def act(*arguments, **options):
        result = after(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    return act


def spec(folder, line="true"):
    return RunSpec(command=(line,), folder=folder)


def test_an_interrupt_before_the_hand_over_calls_the_run_off(home, folder):
    with pytest.raises(KeyboardInterrupt):
        submit(home, spec(folder), announce=press(after=lambda _: None))
    record = Run(home, 1).record
    assert (record.status, record.ending.reason) == (RunStatus.KILLED, EndReason.KILL_REQUESTED)


def test_an_interrupt_while_the_number_is_given_calls_the_run_off(home, folder, monkeypatch):
    monkeypatch.setattr(RunLock, "create", press(after=RunLock.create))
    with pytest.raises(KeyboardInterrupt):
        submit(home, spec(folder))
    assert Run(home, 1).status is RunStatus.KILLED


def test_a_second_interrupt_does_not_keep_the_first_from_being_written(home, folder, monkeypatch):
    monkeypatch.setattr(SqliteDatabase, "end_run", press(after=SqliteDatabase.end_run))
    with pytest.raises(KeyboardInterrupt):
        submit(home, spec(folder), announce=press(after=lambda _: None))
    assert Run(home, 1).status is RunStatus.KILLED


def test_an_interrupt_after_the_hand_over_says_that_the_run_goes_on(home, folder, tmp_path):
    """The very command, with a ^C pressed when the supervisor has taken the run, and another one at once."""
    script = tmp_path / "pressed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from conjure.cli.main import main\n"
        "from conjure.runs.executors.local import _Launch as Launch\n"
        "given = Launch.send_request\n"
        "def send_request(*arguments, **options):\n"
        "    given(*arguments, **options)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "Launch.send_request = send_request\n"
        "main(interrupts=True)\n"
    )
    done = subprocess.run(
        [sys.executable, script, "run", UNTIL_GO], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "Run 1 continues in the background." in done.stdout
    run = Run(home, 1)
    release(run)
    assert run.wait().status is RunStatus.COMPLETE


def test_a_submission_that_fails_by_a_fault_of_ours_is_not_called_interrupted(home, folder):
    def fail(_number):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        submit(home, spec(folder), announce=fail)
    record = Run(home, 1).record
    assert (record.status, record.ending.reason) == (RunStatus.BUILD_FAILED, EndReason.SUBMISSION_FAILED)
    assert record.ending.message == "it could not be submitted: RuntimeError: a bug"


# ---- the command line's own streams and moments -----------------------------------------------------------


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


@pytest.fixture
def variables(folder, home, monkeypatch):
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    return folder


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("place", ["> /dev/full", ">&-"])
def test_a_run_whose_transcript_cannot_be_written_is_a_run(home, place):
    done = shell(f"{CONJURE} run 'echo hello' {place}")
    assert done.returncode == 125
    assert done.stderr.startswith("error: the output cannot be written: ")
    assert "run 1 is not affected" in done.stderr
    assert "try: conjure logs -f 1" in done.stderr
    assert Run(home, 1).wait().status is RunStatus.COMPLETE
    assert list(Run(home, 1).logs()) == ["hello"]


@pytest.mark.usefixtures("variables")
def test_a_run_whose_reader_has_gone_continues(client):
    piped = "| head -1; echo ${PIPESTATUS[0]}"
    done = shell(f"{CONJURE} run 'while [ ! -e go ]; do echo tick; sleep 0.1; done' {piped}")
    run = client.get(1)
    assert not run.record.status.is_final
    assert done.stdout.splitlines()[1:] == ["130"]
    assert "Run 1 continues in the background." in done.stderr
    assert "conjure logs -f 1" in done.stderr
    run.stop()
    assert shell(f"{CONJURE} run -b 'exec sleep {nap(93000)}' {piped}").stdout.splitlines()[1:] == ["0"]
    client.get(2).kill()


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("place", ["> /dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_sentence_and_a_status(client, place):
    client.run("echo hello").wait(check=True)
    for command in ("ps", "info 1 --json", "--help", "logs 1"):
        done = shell(f"{CONJURE} {command} {place}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: the output cannot be written: ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("variables")
def test_an_error_that_cannot_be_written_is_a_status():
    done = shell(
        f"{CONJURE} info 7 2> /dev/full; echo $?; {CONJURE} info 7 2>&-; echo $?; {CONJURE} x 2>&-; echo $?"
    )
    assert (done.stdout, done.stderr) == ("1\n1\n2\n", "")


def test_an_interrupt_before_the_command_is_imported_is_quiet(tmp_path, home):
    """The first moments, made to last: the first module that is imported waits for the ^C."""
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "__init__.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "conjure", "ps"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_while_a_command_is_imported_is_quiet(tmp_path, home):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'conjure.cli.commands.ps':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "conjure", "ps"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "Stopped.")
