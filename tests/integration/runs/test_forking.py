"""Supervisors that are copies of a process: as a sweep's driver starts them."""

import subprocess
import sys
from textwrap import indent

from conjure.python_api import Client
from conjure.runs.schema.status import RunStatus

_MAKER = """if True:
    import fcntl, os, signal, sys
    from pathlib import Path
    from conjure.core.home import Home
    from conjure.runs.executors.forking import ForkingExecutor
    from conjure.runs.lifecycle.submission import submit
    from conjure.runs.lifecycle.supervisor import become_supervisor
    from conjure.runs.schema.spec import CodeChoice, RunSpec

    home = Home.from_environment()

    def start(executor, *command):
        spec = RunSpec(command=command, folder=Path.cwd(), code=CodeChoice(none=True))
        return submit(home, spec, executor=executor).record.number
"""


def _make(script):
    """What a process prints that starts runs so; it is one of its own, for it must have no other thread."""
    program = f"{_MAKER}{indent(script, '    ')}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def _runs(home):
    return {run.number: run for run in Client(home.root).runs(limit=None)}


def test_each_run_has_a_supervisor_of_its_own_that_its_maker_sees_end(home, folder):
    script = """
with ForkingExecutor(home, become_supervisor) as executor:
    for word in ("one", "two"):
        start(executor, "sh", "-c", f"echo {word}; umask")
        executor.wait(60)
print(os.umask(0))
"""
    (mask,) = _make(script)
    runs = _runs(home)
    assert [(run.status, *run.logs()) for _, run in sorted(runs.items())] == [
        (RunStatus.COMPLETE, word, f"{int(mask):04o}") for word in ("one", "two")
    ]


def test_runs_start_all_the_same_when_the_process_that_is_copied_was_killed(home, folder):
    script = """
with ForkingExecutor(home, become_supervisor) as executor:
    os.kill(executor._original, signal.SIGKILL)
    os.waitid(os.P_PID, executor._original, os.WEXITED | os.WNOWAIT)
    start(executor, "true")
"""
    _make(script)
    assert _runs(home)[1].wait().status is RunStatus.COMPLETE


def test_a_supervisor_holds_nothing_that_its_maker_held(home, folder):
    """Such as a sweep's lock, which must be free as soon as its driver is gone."""
    script = """
held = open("lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
with ForkingExecutor(home, become_supervisor) as executor:
    start(executor, "sh", "-c", "while [ ! -e ../go ]; do sleep 0.02; done")
    held.close()
    with open("lock") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    home.run_folder(1).joinpath("go").touch()
    executor.wait(60)
print("free")
"""
    assert _make(script) == ["free"]
    assert _runs(home)[1].status is RunStatus.COMPLETE
