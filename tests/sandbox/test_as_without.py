"""A sandboxed run ends, is stopped, logs, measures and saves as any other."""

import os

import pytest

from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import nap, wait_until


def both(client, command, **options):
    """The same run without and with the sandbox."""
    runs = [client.run(command, sandbox=sandbox, **options) for sandbox in (False, True)]
    return [run.wait() for run in runs]


def ending(run):
    found = run.record.ending
    return found.reason, found.exit_code, found.signal


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "exit 3",
        "kill -TERM $$",
        "kill -KILL $$",
        ["kill-no-such-program", "word"],
        ["./no-such-file", "word"],
        ["./plain.txt", "word"],
        ["./bad-interpreter", "word"],
        ["/", "word"],
    ],
)
def test_it_ends_as_without(client, folder, command):
    (folder / "plain.txt").write_text("x")
    (folder / "bad-interpreter").write_text("#!/no/such/program\n")
    (folder / "bad-interpreter").chmod(0o755)
    without, sandboxed = both(client, command)
    assert ending(sandboxed) == ending(without)


def test_outputs_log_and_metrics_are_as_without(client, folder):
    (folder / "code.py").write_text(
        "import os, sys\nfrom conjure import log_metric\n"
        "for step in range(3): log_metric('loss', 1 / (step + 1))\n"
        "print('out'); print('err', file=sys.stderr)\n"
        "os.makedirs('a/b'); open('a/b/made.txt', 'w').write('made'); os.symlink('b/made.txt', 'a/link')\n"
    )
    without, sandboxed = both(client, "python code.py")
    assert sandboxed.record.outputs == without.record.outputs
    assert sorted(sandboxed.logs()) == sorted(without.logs()) == ["err", "out"]
    values = [[point.value for point in run.metrics("loss")] for run in (without, sandboxed)]
    assert values[0] == values[1] == [1.0, 0.5, 1 / 3]
    assert sandboxed.metrics().keys() == {"loss"}


def test_mounts_can_be_read_and_private_copies_written(client, folder):
    (folder / "local.txt").write_text("local\n")
    client.run("mkdir d; echo of run 1 > d/made.txt").wait(check=True)
    mounts = ["./local.txt:a.txt", "./local.txt:b.txt:ro", "runs/1/d:c", "runs/1/d:e:ro"]
    command = "cat a.txt b.txt c/made.txt e/made.txt && echo more >> a.txt && echo more >> c/made.txt"
    for run in both(client, command, mounts=mounts):
        assert list(run.logs()) == ["local", "local", "of run 1", "of run 1"]
        assert run.status is RunStatus.COMPLETE


def test_a_clean_environment_can_be_used(client):
    for run in both(client, ["python", "-c", "import sys; print(sys.prefix)"], base="none"):
        assert list(run.logs()) == [str(client.home.environments / run.record.environment.digest)]


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_a_stop_gives_the_command_time_to_save(client, how):
    options = {"timeout": "3s"} if how == "timeout" else {}
    # The command and a child of it save; the shell that leads them ends at once.
    saver = "trap 'echo saved >> saved.txt; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    command = ["sh", "-c", f"sh -c \"{saver}\" & trap 'exit 5' TERM; while :; do sleep 0.05; done"]
    runs = [client.run(command, sandbox=sandbox, **options) for sandbox in (False, True)]
    for run in runs:
        if how == "stop":
            wait_until(lambda run=run: "ready" in list(run.logs()), "the command is ready")
            run.stop()
        run.wait()
        assert (client.home.run_folder(run.number) / "outputs" / "saved.txt").read_text() == "saved\n"
    assert ending(runs[1]) == ending(runs[0])
    assert runs[1].end_reason is (EndReason.TIMEOUT if how == "timeout" else EndReason.STOP_REQUESTED)


def test_a_command_that_ignores_sigterm_is_stopped_by_its_signal(client):
    runs = [client.run(["sleep", nap(620)], sandbox=sandbox) for sandbox in (False, True)]
    for run in runs:
        wait_until(lambda run=run: run.status is RunStatus.RUNNING, "the command runs")
    endings = [ending(run.stop()) for run in runs]
    assert endings[0] == endings[1] == (EndReason.STOP_REQUESTED, None, 15)


def test_a_kill_ends_it_at_once(client):
    run = client.run(["sleep", nap(621)], sandbox=True)
    wait_until(lambda: run.status is RunStatus.RUNNING, "the command runs")
    assert ending(run.kill()) == (EndReason.KILL_REQUESTED, None, 9)


def test_a_program_in_the_home_is_named_when_it_cannot_be_seen(client, user_home):
    program = user_home / "tools" / "mine"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    run = client.run([str(program), "word"], sandbox=True).wait()
    assert run.record.ending.exit_code == 127
    assert f"{program} cannot be seen in the sandbox" in run.record.ending.message


def test_programs_on_path_can_be_run_and_not_changed(client, user_home, monkeypatch):
    tools = user_home / "bin"
    tools.mkdir()
    (tools / "mine").write_text("#!/bin/sh\necho ran\n")
    (tools / "mine").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    run = client.run("mine; echo x >> ~/bin/mine", sandbox=True).wait()
    assert next(run.logs()) == "ran"
    assert (tools / "mine").read_text() == "#!/bin/sh\necho ran\n"


def test_a_rerun_is_sandboxed_too(client):
    client.run("true", sandbox=True, network=True).wait()
    again = client.get(1).rerun().wait()
    assert (again.record.spec.sandbox, again.record.spec.network) == (True, True)


def test_a_sandbox_that_cannot_be_made_is_said_in_one_sentence(client, monkeypatch, tmp_path):
    bubblewrap = tmp_path / "bin" / "bwrap"
    bubblewrap.parent.mkdir()
    bubblewrap.write_text("#!/bin/sh\n[ -e trial-was-done ] && exec false\nexit 0\n")
    bubblewrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bubblewrap.parent}:{os.environ['PATH']}")
    run = client.run("echo ran", sandbox=True).wait()
    assert run.record.ending.exit_code == 127
    assert "bubblewrap could not start the command" in run.record.ending.message
    assert list(run.logs()) == []
