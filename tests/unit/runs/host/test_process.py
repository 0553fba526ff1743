import os
import signal
import subprocess
import sys

import pytest

from conjure.runs.host import process as processes
from conjure.runs.host.process import (
    boot_id,
    descendants,
    end_all,
    find_process,
    host_id,
    send_signal,
    this_process,
    with_variables,
)
from support.casting import wait_until

# Starts three processes, of which one is to stay and one has ended, and says what is left of them.
_END_FAMILY = """
import os, subprocess
from conjure.runs.host.process import kill_descendants, find_process
spared, ended, killed = (subprocess.Popen([*words]) for words in (["sleep", "60"], ["true"], ["sleep", "60"]))
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
kill_descendants(exclude=lambda process: process.pid == spared.pid)
gone = find_process(killed.pid)
print(find_process(ended.pid), gone is None or gone.is_zombie, spared.poll())
spared.kill()
"""


# Tells its descendants: before there is a child, with one, and when that has ended and is waited for.
_COUNT_FAMILY = """
import os, subprocess
from conjure.runs.host.process import descendants
print([process.name for process in descendants(os.getpid())])
child = subprocess.Popen(["sleep", "60"])
print([process.pid for process in descendants(os.getpid())] == [child.pid])
child.kill()
child.wait()
print(descendants(os.getpid()))
"""


def test_a_process_has_the_descendants_it_has():
    done = subprocess.run([sys.executable, "-c", _COUNT_FAMILY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True", "[]"]


def test_this_process_is_told_from_any_other():
    owner = this_process()
    seen = find_process(os.getpid())
    assert seen is not None
    assert (owner.pid, owner.started) == (os.getpid(), seen.started)
    assert (owner.host_id, owner.boot_id) == (host_id(), boot_id())
    assert len(owner.host_id) == 16


def test_a_process_that_is_gone_is_nobody():
    process = subprocess.Popen(["true"])
    process.wait()
    assert find_process(process.pid) is None


def test_a_name_with_brackets_confuses_nobody(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        wait_until(lambda: find_process(process.pid).name == program.name, "the program")
        assert find_process(process.pid).parent == os.getpid()
        process.kill()


def test_a_family_is_found_and_others_spared():
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"]) as shell:
        wait_until(lambda: [p.name for p in descendants(shell.pid)] == ["sleep", "sleep"], "the children")
        assert shell.pid in {process.pid for process in descendants(os.getpid())}
        assert not {p.pid for p in descendants(os.getpid(), exclude=lambda p: p.pid == shell.pid)} & {
            shell.pid,
            *(process.pid for process in descendants(shell.pid)),
        }
        for process in (*descendants(shell.pid), find_process(shell.pid)):
            send_signal(process, signal.SIGKILL)


def test_a_reused_number_is_never_hit():
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = find_process(process.pid)
        assert seen is not None
        send_signal(seen._replace(started="0"), signal.SIGKILL)  # as if this were a later process
        assert process.poll() is None
        send_signal(seen, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    send_signal(seen, signal.SIGTERM)  # gone: nothing happens


def test_processes_are_found_by_their_variables():
    with subprocess.Popen(["sleep", "60"], env={"A_MARK": "x y", "B": "1"}) as process:
        wait_until(lambda: find_process(process.pid).name == "sleep", "the program")
        assert [found.pid for found in with_variables([b"A_MARK=x y", b"B=1"])] == [process.pid]
        assert with_variables([b"A_MARK=x y", b"B=2"]) == []
        process.kill()


def test_a_process_that_is_just_starting_a_program_is_found_too(tmp_path, monkeypatch):
    """As /proc shows it inside of execve: a new name, but no environment and no words yet."""
    folder = tmp_path / "7"
    folder.mkdir()
    for name in ("environ", "cmdline"):
        (folder / name).touch()
    (folder / "exe").symlink_to("/usr/bin/sleep")
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    monkeypatch.setattr(processes.time, "sleep", lambda _: (folder / "environ").write_bytes(b"A_MARK=x\0"))
    assert b"A_MARK=x" in processes._variables(7)


def test_a_thread_of_the_kernel_has_no_variables(tmp_path, monkeypatch):
    folder = tmp_path / "7"
    folder.mkdir()
    for name in ("environ", "cmdline"):
        (folder / name).touch()
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    monkeypatch.setattr(processes.time, "sleep", lambda _: pytest.fail("it was waited for"))
    assert processes._variables(7) == set()


def test_ending_another_process_leaves_the_exit_status_of_a_child_to_who_started_it():
    with subprocess.Popen(["sh", "-c", "exit 3"]) as ended, subprocess.Popen(["sleep", "60"]) as other:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        seen = find_process(other.pid)
        assert end_all(lambda: [seen] if find_process(other.pid) == seen else [])
        assert ended.wait() == 3
        assert other.wait() == -signal.SIGKILL


def test_a_process_ends_its_family_and_waits_for_it():
    words = [sys.executable, "-c", _END_FAMILY]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "None True None\n"
