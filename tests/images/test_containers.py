"""What a run in a container is given of this machine, which image it has, and that nothing of it is left."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conjure.errors import UsageError
from conjure.runs.environments.containers import container_name, keeps_containers
from conjure.runs.host.process import all_processes, find_process
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import nap, wait_until
from support.containers import SMALL, engine, import_image


def image_digest(name):
    return "sha256:" + engine("image", "inspect", "--format", "{{.Id}}", name).removeprefix("sha256:")


def outputs(client, run):
    return client.home.run_folder(run.number) / "outputs"


def test_the_record_has_the_digest_of_the_image(client):
    run = client.run("true", image=SMALL).wait(check=True)
    record = run.record
    assert record.spec.environment.image == SMALL
    assert record.environment.digest == image_digest(SMALL)
    assert (record.environment.python, record.environment.packages) == ("", {})


def test_a_rerun_has_the_same_image_whatever_its_name_means_now(client, store, folder):
    engine("tag", SMALL, "localhost/moving:1")
    run = client.run("ls /marker || echo none", image="localhost/moving:1").wait()
    (folder / "marker").write_text("x")
    import_image(store, "localhost/moving:1", {"/marker": folder / "marker"})
    moved = client.run("ls /marker", image="localhost/moving:1").wait()
    assert list(moved.logs()) == ["/marker"]
    again = run.rerun().wait()
    assert "none" in list(again.logs())
    assert again.record.environment == run.record.environment
    assert again.record.spec.environment.image == "localhost/moving:1"
    engine("rmi", "localhost/moving:1")


def test_an_image_that_is_gone_is_named(client, store, folder):
    (folder / "marker").write_text("x")
    import_image(store, "localhost/gone:1", {"/marker": folder / "marker"})
    run = client.run("true", image="localhost/gone:1").wait(check=True)
    engine("rmi", "localhost/gone:1")
    again = run.rerun().wait()
    assert again.end_reason is EndReason.BUILD_FAILED
    digest = run.record.environment.digest
    told = f"image localhost/gone:1 ({digest}) is not on this machine (podman images lists those that are)"
    assert again.record.ending.message.replace("docker", "podman") == told


def test_an_image_that_cannot_be_had_fails_the_build_in_the_engines_words(client):
    run = client.run("true", image="localhost/no-such-image:1").wait()
    assert run.end_reason is EndReason.BUILD_FAILED
    told = "image localhost/no-such-image:1 cannot be fetched: (podman|docker) failed: ."
    assert re.match(told, run.record.ending.message)


def test_an_equal_run_is_found(client):
    first = client.run("echo x > x.txt", image=SMALL, idempotent=True).wait(check=True)
    assert client.run("echo x > x.txt", image=SMALL, idempotent=True).number == first.number
    assert client.run("echo x > x.txt", idempotent=True).number != first.number


def test_nothing_of_this_machine_is_in_it_but_the_runs_own(client, user_home, monkeypatch):
    monkeypatch.setenv("OF_THE_CALLER", "x")
    command = f"ls {user_home}; ls {client.home.root}/conjure.db; echo [$OF_THE_CALLER] [$GIVEN] $HOME"
    run = client.run(command, image=SMALL, env={"GIVEN": "y", "HOME": "/tmp"}).wait()
    told = list(run.logs())
    assert sum("No such file" in line for line in told) == 2
    assert "[] [y] /tmp" in told


def test_variables_that_the_engine_goes_by_are_the_commands(client):
    given = {"REGISTRY_PASSWORD": "two\nlines", "CONTAINERS_CONF": "/none", "LD_LIBRARY_PATH": "/lib"}
    command = 'echo "[$REGISTRY_PASSWORD]" "$CONTAINERS_CONF" "$LD_LIBRARY_PATH"; env | grep -c CONJURE_AS_'
    run = client.run(command, image=SMALL, env=given).wait()
    assert list(run.logs())[-3:] == ["[two", "lines] /none /lib", "0"]


def test_what_it_makes_belongs_to_the_caller(client):
    run = client.run("mkdir d; echo x > d/x.txt", image=SMALL).wait(check=True)
    assert (outputs(client, run) / "d" / "x.txt").stat().st_uid == os.getuid()


@pytest.fixture
def others_folder():
    """A folder of another user's, who is not known by name, and can get to it."""
    if shutil.which("podman"):
        pytest.skip("an ordinary user has a podman of their own")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "project").mkdir()
        for each in (folder, folder / "project"):
            os.chown(each, 4321, 4321)
        yield folder


def test_what_docker_makes_for_an_ordinary_user_is_theirs(store, others_folder):
    (store / "docker.sock").chmod(0o666)
    user = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = [sys.executable, "-m", "conjure", "run", "--image", SMALL, "id -u; mkdir d; echo x > d/x.txt"]
    variables = {**os.environ, "HOME": str(others_folder), "CONJURE_HOME": f"{others_folder}/home"}
    told = subprocess.run(
        [*user, *may_read, *command],
        env=variables,
        cwd=others_folder / "project",
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told
    assert "4321" in told.stdout.splitlines()
    assert (others_folder / "home" / "runs" / "1" / "outputs" / "d" / "x.txt").stat().st_uid == 4321


@pytest.mark.parametrize("guard_too", [False, True], ids=["supervisor", "supervisor and guard"])
def test_nothing_is_left_of_a_run_whose_supervisor_is_killed(client, guard_too):
    word = nap(640 + guard_too)
    run = client.run(f"setsid sleep {word} & sleep {word}", image=SMALL)
    wait_until(lambda: run.status is RunStatus.RUNNING, "the command runs")
    name = container_name(client.home, run.number)
    assert engine("ps", "--format", "{{.Names}}") == name
    supervisor = next(each for each in all_processes() if each.pid == run.record.owner.pid)
    if guard_too:
        os.kill(supervisor.parent, signal.SIGKILL)
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: run.status is RunStatus.INTERRUPTED, "the run is closed")
    wait_until(lambda: engine("ps", "--all", "--quiet") == "", "the container is removed")
    assert not (client.home.run_folder(run.number) / "container").exists()
    assert not [each for each in all_processes() if word in _command_line(each.pid)]


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("words", [["unshare", "--user"], []])
def test_what_podman_keeps_for_all_containers_of_a_user_is_no_runs(words):
    with subprocess.Popen([*words, shutil.which("catatonit"), "-P"]) as process:
        try:
            wait_until(lambda: find_process(process.pid).name == "catatonit", "it has started")
            assert keeps_containers(find_process(process.pid)) == bool(words)
        finally:
            process.kill()


def test_without_an_engine_it_is_refused_in_one_sentence(client, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UsageError, match="image: neither podman nor docker is installed"):
            client.run("true", image=SMALL)
