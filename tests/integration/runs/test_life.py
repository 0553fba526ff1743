"""Whole lives of real runs."""

import os
import signal

import pytest

from conjure.errors import ConflictError, NotFoundError, RunFailedError, UsageError
from conjure.python_api import Run
from conjure.runs.artifacts.resource_paths import resolve
from conjure.runs.database.base import STOP
from conjure.runs.database.record_files import read_record
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.capacity import Capacity
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.recovery import recover
from conjure.runs.lifecycle.submission import rerun
from conjure.runs.schema.run_folder import LOG_FILE, RunFolder
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.runs.telemetry.logs import NOTE, LogTail, lines
from support.casting import is_running, nap, wait_for_status, wait_until
from support.repositories import files_with, run_git


def outputs(run):
    folder = run.home.run_folder(run.number) / "outputs"
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


def notes(run):
    entries = LogTail(run.home.run_folder(run.number) / LOG_FILE).read()
    return [line.text for line in lines(entries) if line.stream == NOTE]


# ---- from beginning to end ---------------------------------------------------------------------------------


def test_a_run_is_isolated_recorded_and_saved(client, home, write):
    write("input.txt", "given\n")
    run = client.run(
        "cat input.txt; echo made > new.txt; echo changed > input.txt; echo oh >&2", labels=["x"]
    ).wait()
    assert (run.status, run.exit_code, run.end_reason) == ("complete", 0, "completed")
    assert sorted(run.logs()) == ["given", "oh"]
    assert outputs(run) == {"new.txt": "made\n", "input.txt": "changed\n"}
    assert not (home.run_folder(run.number) / "work").exists()
    record = run.record
    assert record == read_record(home.run_folder(run.number))
    assert record.environment is not None
    assert "click" in record.environment.packages
    assert record.outputs is not None
    assert record.outputs.files == 2
    assert list(record.facts.entered) == [status for status in RunStatus if not status.is_final]
    assert record.command_s is not None
    assert record.total_s is not None
    assert record.total_s >= record.command_s
    log = home.run_folder(run.number) / "supervisor.log"
    wait_until(lambda: not log.exists(), "the end of the supervisor, which had nothing to say")


def test_the_folder_it_was_cast_from_stays_as_it_was(client, folder, write):
    write("a.txt", "one")
    client.run("echo two > a.txt; rm -f a.txt; touch b.txt").wait(check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": "one"}


@pytest.mark.parametrize(
    ("command", "reason", "exit_code", "ended_by"),
    [
        ("exit 66", EndReason.NONZERO_EXIT, 66, None),
        ("kill -KILL $$", EndReason.SIGNALLED, None, signal.SIGKILL),
        (["no-such-program", "x"], EndReason.NONZERO_EXIT, 127, None),
    ],
)
def test_ways_to_fail(client, command, reason, exit_code, ended_by):
    run = client.run(command).wait()
    ending = run.record.ending
    assert (ending.reason, ending.exit_code, ending.signal) == (reason, exit_code, ended_by)
    assert run.status == "failed"
    with pytest.raises(RunFailedError, match=f"run {run.number} ended as failed"):
        run.wait(check=True)


def test_what_the_command_finds_around_it(client, home, folder, write, monkeypatch):
    run_git(folder, "init", "-q")
    write("package/__init__.py", "value = 42\n")
    write(
        "examples/show.py",
        "import os, sys, package\nprint(package.value, os.getcwd(), sys.stdin.read() == '')\n",
    )
    monkeypatch.chdir("examples")
    monkeypatch.setenv("CALLERS", "yes")
    run = client.run(
        "python show.py; echo $CALLERS $GIVEN $CONJURE_RUN $PYTHONUNBUFFERED; echo ':word:' :word:",
        env={"GIVEN": "too"},
        params={"word": "a b"},
    ).wait(check=True)
    work = home.run_folder(run.number) / "work" / "examples"
    assert list(run.logs()) == [f"42 {work} True", f"yes too {run.number} 1", "a b a b"]


def test_several_words_are_passed_exactly(client):
    run = client.run(["printf", "%s|", "a  b", "$HOME", "*", "", "é"]).wait(check=True)
    assert list(run.logs()) == ["a  b|$HOME|*||é|"]


def test_metrics_are_kept_and_indexed(client, write):
    write(
        "train.py",
        "import conjure\nfor i in range(5):\n    conjure.log_metric('loss', 1 / (i + 1), step=i)\n",
    )
    run = client.run("python train.py").wait(check=True)
    assert [(point.step, point.value) for point in run.metrics("loss")] == [
        (i, 1 / (i + 1)) for i in range(5)
    ]
    summary = run.metrics()["loss"]
    assert (summary.points, summary.last_value, summary.lowest, summary.highest) == (5, 0.2, 0.2, 1.0)


def test_an_environment_without_conjure_can_report_too(client, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    run = client.run("python -c 'import conjure; conjure.log_metric(\"x\", 1)'", base="none").wait(check=True)
    assert run.metrics()["x"].points == 1


# ---- mounts and inputs -------------------------------------------------------------------------------------


def test_outputs_are_mounted_into_the_next_run(client, home, monkeypatch, folder):
    made = client.run("mkdir d; echo deep > d/deep.txt; seq 3 > data.txt").wait(check=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "keep").write_text("")
    monkeypatch.chdir("sub")
    run = client.run(
        "paste -sd+ data.txt; cat in/deep.txt; echo more >> data.txt",
        mounts=[f"runs/{made.number}/data.txt", f"runs/{made.number}/d:in:ro"],
    ).wait(check=True)
    assert list(run.logs()) == ["1+2+3", "deep"]
    assert (home.run_folder(made.number) / "outputs" / "data.txt").read_text() == "1\n2\n3\n"
    assert outputs(run)["data.txt"] == "1\n2\n3\nmore\n"
    assert [mount.source for mount in run.record.mounts] == [
        f"runs/{made.number}/data.txt",
        f"runs/{made.number}/d",
    ]
    with open_store(home) as store:
        assert store.users_of(made.number) == [run.number]


def test_what_cannot_be_mounted_is_refused_before_there_is_a_number(client):
    with pytest.raises(NotFoundError, match="runs/31 does not exist"):
        client.run("true", mounts=["runs/31"])
    with pytest.raises(NotFoundError, match="there is no file"):
        client.run("true", mounts=["./nothing.csv"])
    with pytest.raises(UsageError, match="is a folder"):
        client.run("true", mounts=["./:x"])
    assert client.runs() == []


def test_a_mount_that_meets_a_file_of_the_code_ends_mount_failed(client, write):
    made = client.run("echo x > data.txt").wait(check=True)
    write("data.txt", "mine")
    run = client.run("true", mounts=[f"runs/{made.number}/data.txt"]).wait()
    assert run.status == "mount_failed"
    assert run.record.ending.message == (
        "cannot mount at data.txt: data.txt already exists in the code"
        " (choose another path, as in RESOURCE:data)"
    )


def test_a_local_file_is_kept_so_that_the_run_can_be_cast_again(client, home, write):
    file = write("jokes.csv", "ID,Joke\n1,ha\n")
    run = client.run(
        "wc -l < in.csv; touch made", mounts={"./jokes.csv": "in.csv"}, no_output=["*.csv"]
    ).wait(check=True)
    file.write_text("changed")
    again = Run(home, rerun(home, run.number).record.number).wait(check=True)
    assert list(again.logs()) == list(run.logs()) == ["2"]
    assert again.record.rerun_of == run.number
    assert again.record.code == run.record.code
    assert outputs(again) == {"made": ""}


def test_an_environment_that_cannot_be_built_ends_build_failed(client, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    run = client.run("true", pip=["no-such-package-at-all"]).wait()
    assert (run.status, run.exit_code) == ("build_failed", None)
    assert "no-such-package-at-all" in run.record.ending.message


def test_a_python_that_is_not_here_is_told_with_what_to_do(client):
    run = client.run("true", python="3.99", base="none").wait()
    assert run.status == "build_failed"
    assert run.record.ending.message.startswith("there is no Python 3.99 on this machine")
    assert run.record.ending.message.endswith("(install Python 3.99, or omit --python)")


def test_code_that_cannot_be_taken_ends_build_failed_at_once(client, home):
    with pytest.raises(UsageError):
        client.run("true", commit="no-such-commit")
    record = Run(home, 1).record
    assert (record.status, record.ending.reason) == (RunStatus.BUILD_FAILED, EndReason.CODE_FAILED)


# ---- ending early ------------------------------------------------------------------------------------------


def test_stop_gives_the_command_time_and_saves(client):
    run = client.run(
        "trap 'echo bye > bye.txt; exit 5' TERM; touch early; echo ready; while :; do sleep 0.05; done"
    )
    wait_until(lambda: list(run.logs()), "the command's start")
    run.stop()
    assert (run.status, run.exit_code, run.end_reason) == ("stopped", 5, "stop_requested")
    assert outputs(run) == {"bye.txt": "bye\n", "early": ""}


def test_kill_saves_nothing_and_recover_does_later(client, home):
    run = client.run(f"trap '' TERM; echo made > made.txt; echo ready; sleep {nap(87111)} & wait")
    wait_until(lambda: list(run.logs()), "the command's start")
    with pytest.raises(ConflictError, match="is running"):
        recover(home, run.number)
    run.kill()
    assert (run.status, run.record.ending.signal) == ("killed", 9)
    assert not is_running(nap(87111))
    assert run.record.outputs is None
    assert resolve(home, f"runs/{run.number}/made.txt", lambda _: None).read_text() == "made\n"
    record = recover(home, run.number)
    assert (record.status, record.outputs.files, record.outputs.recovered) == ("killed", 1, True)
    assert outputs(run) == {"made.txt": "made\n"}
    with pytest.raises(NotFoundError, match="does not need to be recovered"):
        recover(home, run.number)


def test_what_cannot_be_saved_is_not_deleted(client, home):
    deep = "import os\nfor name in ['d' * 250] * 16:\n    os.mkdir(name)\n    os.chdir(name)\n"
    deep += "open('f' * 70, 'w').write('deep')"  # has a longer path among the outputs than the system takes
    run = client.run(["python", "-c", deep]).wait()
    work = RunFolder(home.run_folder(run.number)).work
    assert (run.status, outputs(run)) == ("complete", {})
    skipped, kept = notes(run)
    assert skipped.endswith("… has a path that is too long")
    assert f"the working folder {work} is kept" in kept
    assert f"conjure recover {run.number}" in kept
    told: list[str] = []
    assert recover(home, run.number, told.append).outputs.files == 0
    assert [line.partition("…")[2] for line in told] == [" has a path that is too long", ""]
    (work / ("d" * 250)).rename(work / "d")
    told.clear()
    assert recover(home, run.number, told.append).outputs.files == 1
    assert (told, work.exists()) == ([], False)
    assert [*outputs(run).values()] == ["deep"]


def test_a_timeout_stops_and_saves(client):
    run = client.run(f": > made; sleep {nap(87222)}", timeout="2s").wait()
    assert (run.status, run.end_reason, run.record.ending.signal) == ("stopped", "timeout", signal.SIGTERM)
    assert outputs(run) == {"made": ""}


def test_a_stop_condition_stops_and_saves(client, write):
    write(
        "t.py",
        "import conjure, time\nfor i in range(10**9):\n conjure.log_metric('loss', i)\n time.sleep(0.01)\n",
    )
    run = client.run(
        "touch made; python t.py", stop_conditions=["loss > 1000", "loss > 3 && step >= 5"]
    ).wait()
    assert (run.status, run.end_reason) == ("stopped", "stop_condition")
    assert run.record.ending.message.startswith("loss > 3 && step >= 5: loss was 5 at step 5")
    assert outputs(run) == {"made": ""}


def test_daemons_do_not_outlive_their_run(client):
    run = client.run(f"setsid nohup sleep {nap(87333)} > /dev/null 2>&1 & echo started").wait(check=True)
    assert list(run.logs()) == ["started"]
    assert not is_running(nap(87333))


def test_a_sigterm_to_the_supervisor_is_a_wish_to_stop(client):
    run = client.run(f"touch made; echo ready; sleep {nap(87444)}")
    wait_until(lambda: list(run.logs()), "the command's start")
    os.kill(run.record.owner.pid, signal.SIGTERM)
    run.wait()
    assert run.status == "stopped"
    assert outputs(run) == {"made": ""}


# ---- beside others -----------------------------------------------------------------------------------------


def test_runs_that_ask_wait_for_one_another_and_others_do_not(client, home):
    every = Capacity.of_this_machine().cpus
    first = client.run(f"sleep {nap(87555)}", cpus=every)
    wait_for_status(first, RunStatus.RUNNING)
    second = client.run("echo second", cpus=1)
    third = client.run("echo third", cpus=1)
    modest = client.run("echo modest").wait(check=True)
    assert modest.status == "complete"
    wait_for_status(second, RunStatus.QUEUED)
    third.stop()
    assert (third.status, third.record.ending.exit_code) == ("stopped", None)
    first.kill()
    assert second.wait().status == "complete"


def test_a_run_can_cast_runs_which_outlive_it(client, home, write):
    write(
        "cast.py", "import conjure\nprint(conjure.Client().run('sleep 0.5; echo late > late.txt').number)\n"
    )
    outer = client.run("python cast.py").wait(check=True)
    inner = Run(home, int(next(outer.logs()))).wait(check=True)
    assert inner.record.parent == outer.number
    assert outputs(inner) == {"late.txt": "late\n"}


def test_an_equal_run_that_completed_is_reused(client, home, write):
    write("a.txt", "one")
    options = {"idempotent": True, "params": {"x": "1"}}
    first = client.run("echo :x:", **options).wait(check=True)
    assert client.run("echo :x:", **options).number == first.number
    other = client.run("echo :x:", idempotent=True, params={"x": "2"}).wait(check=True)
    assert other.number == 2
    write("a.txt", "two")
    changed = client.run("echo :x:", **options)
    assert changed.number == 3


def test_a_run_is_not_reused_after_an_edit_of_what_it_imports(client, tmp_path, monkeypatch):
    library = tmp_path / "shared/mylib.py"
    library.parent.mkdir()
    library.write_text("print(1)")
    monkeypatch.setenv("PYTHONPATH", f"{library.parent}:{os.environ.get('PYTHONPATH', '')}")
    command = "python -c 'import mylib'"
    first = client.run(command, idempotent=True).wait(check=True)
    assert client.run(command, idempotent=True).number == first.number
    library.write_text("print(22)")
    assert list(client.run(command, idempotent=True).wait(check=True).logs()) == ["22"]


# ---- secrets -----------------------------------------------------------------------------------------------


def test_secrets_reach_the_command_and_nothing_else(client, home, monkeypatch):
    run = client.run("test ${#API_KEY} = 10", env={"API_KEY": "hunter2xyz"}).wait(check=True)
    assert files_with(home.root, "hunter2xyz") == []
    with pytest.raises(UsageError, match="has secrets, which are not stored: API_KEY"):
        run.rerun()
    monkeypatch.setenv("API_KEY", "hunter2xyz")
    assert run.rerun().wait(check=True).status == "complete"


def test_a_stop_before_the_command_starts_saves_nothing(client, home):
    every = Capacity.of_this_machine().cpus
    first = client.run(f"sleep {nap(87666)}", cpus=every)
    wait_for_status(first, RunStatus.RUNNING)
    queued = client.run("touch made", cpus=every)
    with SqliteDatabase.open(home) as store:
        store.request_end(queued.number, STOP)
    queued.wait()
    assert (queued.status, queued.exit_code) == ("stopped", None)
    assert not (home.run_folder(queued.number) / "outputs").exists()
