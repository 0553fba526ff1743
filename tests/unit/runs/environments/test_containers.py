"""The command lines around a container."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import BuildError
from conjure.runs.environments import containers
from conjure.runs.environments.containers import (
    BindMount,
    Container,
    OutputPipes,
    container_name,
    exec_arguments,
    remove_container,
    start_container,
)
from conjure.runs.schema.run_folder import RunFolder


@pytest.fixture
def podman(tmp_path, monkeypatch):
    """A podman that writes down what it is asked; gives what the last one was asked, and its variables."""
    folder = tmp_path / "bin"
    folder.mkdir()
    said = tmp_path / "said"
    script = (
        f'#!/bin/sh\n[ "$1" != info ] || exec /bin/cat {said}.info\n'
        f'printf "%s\\n" "$@" > {said}\n/usr/bin/env > {said}.env\n[ ! -e {said}.fails ]\n'
    )
    for name in ("podman", "catatonit"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def asked():
        lines = Path(f"{said}.env").read_text().splitlines()
        return said.read_text().splitlines(), dict(line.split("=", 1) for line in lines)

    return asked


def container(**variables):
    bound = (BindMount(Path("/w"), Path("/w")), BindMount(Path("/x"), Path("/y"), read_only=True))
    return Container("name", "sha256:1", bound, variables)


def test_a_container_has_what_it_is_given(podman, tmp_path):
    start_container(container(), tmp_path / "marker")
    words, _ = podman()
    assert (tmp_path / "marker").exists()
    assert words[0] == "run"
    assert "--user=0:0" in words
    assert words[-2:] == ["sha256:1", "-P"]
    mounts = [words[at + 1] for at, word in enumerate(words) if word == "--mount"]
    assert mounts[1:] == ["type=bind,source=/w,destination=/w", "type=bind,source=/x,destination=/y,ro"]
    assert words[words.index("--entrypoint") + 1] == "/dev/conjure-init"


def test_what_docker_makes_is_the_callers_but_packages_are_roots(podman, tmp_path):
    (tmp_path / "bin" / "podman").rename(tmp_path / "bin" / "docker")
    (tmp_path / "said.info").write_text("[]")
    start_container(container(), tmp_path / "marker")
    assert f"--user={os.getuid()}:{os.getgid()}" in podman()[0]
    start_container(container()._replace(for_build=True), tmp_path / "marker")
    words, _ = podman()
    assert {"--user=0:0", "--env=http_proxy", "--env=NO_PROXY"} <= set(words)


@pytest.mark.parametrize("option", ["name=rootless", "name=userns"])
def test_docker_whose_root_is_another_user_is_refused(podman, tmp_path, option):
    (tmp_path / "bin" / "podman").rename(tmp_path / "bin" / "docker")
    (tmp_path / "said.info").write_text(json.dumps(["name=seccomp,profile=builtin", option]))
    with pytest.raises(BuildError, match=r"^docker runs containers as other users here"):
        start_container(container(), tmp_path / "marker")


def test_a_proxy_is_the_containers_too_but_not_where_packages_are_installed(podman, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    start_container(container(), tmp_path / "marker")
    words, variables = podman()
    assert "--env=HTTPS_PROXY" in words
    assert variables["HTTPS_PROXY"] == "http://127.0.0.1:9"
    start_container(container()._replace(for_build=True), tmp_path / "marker")
    words, variables = podman()
    assert "--env=HTTPS_PROXY" not in words
    assert "HTTPS_PROXY" not in variables


@pytest.mark.parametrize(("user", "queues", "shared"), [(0, False, True), (7, True, True), (7, False, False)])
def test_shared_memory_is_the_machines_even_without_message_queues(
    podman, tmp_path, monkeypatch, user, queues, shared
):
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(containers, "_MESSAGE_QUEUES", tmp_path if queues else tmp_path / "none")
    start_container(container(), tmp_path / "marker")
    assert ("--ipc=host" in podman()[0]) == shared
    assert ("type=bind,source=/dev/shm,destination=/dev/shm" in podman()[0]) != shared


def test_pipes_are_made_anew_and_removed(tmp_path):
    pipes = OutputPipes.beside(tmp_path / "container")
    pipes.make()
    pipes.make()
    assert all(path.is_fifo() for path in pipes)
    assert [bound.source for bound in pipes.bound] == list(pipes)
    pipes.remove()
    assert list(tmp_path.iterdir()) == []


def test_values_of_variables_are_on_no_command_line(podman, tmp_path):
    given = {"API_KEY": "secret", "PATH": "/opt/bin", "REGISTRY_PASSWORD": "another", "REGISTRY_É": "third"}
    start_container(container(**given), tmp_path / "marker")
    words, variables = podman()
    named = ["API_KEY", "CONJURE_AS_PATH", "CONJURE_AS_REGISTRY_PASSWORD", "REGISTRY_É"]
    assert [word for word in words if word.startswith("--env")] == [f"--env={name}" for name in named]
    assert [variables[name] for name in named[:3]] == ["secret", "/opt/bin", "another"]
    assert variables["PATH"] == os.environ["PATH"]  # podman's own stays
    assert "REGISTRY_PASSWORD" not in variables


def test_the_command_has_variables_that_podman_goes_by_under_their_own_names(podman, tmp_path):
    value = 'two\nlines of "it\'s" $HOME'
    words = exec_arguments("name", Path("/w"), ["/usr/bin/env", "-0"], ["A", "REGISTRY_PASSWORD"])
    at = words.index("/bin/sh")
    assert not any(value in word for word in words)
    script = words[at + 2].replace(" > /dev/conjure-stdout 2> /dev/conjure-stderr", "")
    variables = {"CONJURE_AS_REGISTRY_PASSWORD": value, "A": "1"}
    printed = subprocess.run(
        ["/bin/sh", "-c", script, *words[at + 3 :]], env=variables, capture_output=True, check=True
    ).stdout
    found = dict(line.split("=", 1) for line in printed.decode().split("\0") if line)
    assert (found["REGISTRY_PASSWORD"], found["A"]) == (value, "1")
    assert "CONJURE_AS_REGISTRY_PASSWORD" not in found


def test_a_path_that_podman_cannot_take_is_refused(podman, tmp_path):
    bound = (BindMount(Path("/a,b"), Path("/a,b")),)
    with pytest.raises(BuildError, match="/a,b cannot be mounted in a container: its path has a comma"):
        start_container(Container("name", "x", bound, {}), tmp_path / "marker")


def test_a_command_is_passed_word_for_word(podman, tmp_path):
    words = exec_arguments("name", Path("/w"), ["sh", "-c", "echo $X"])
    at = words.index("exec")
    assert words[at : at + 4] == ["exec", "--workdir", "/w", "name"]
    assert words[-3:] == ["sh", "-c", "echo $X"]


def test_a_container_is_removed_if_there_may_be_one(podman, tmp_path):
    home = Home(tmp_path / "home")
    home.run_folder(3).mkdir(parents=True)
    marker = RunFolder.of(home, 3).container
    remove_container(home, 3)
    with pytest.raises(FileNotFoundError):
        podman()
    marker.touch()
    (tmp_path / "said.fails").touch()
    remove_container(home, 3)
    assert marker.exists()
    (tmp_path / "said.fails").unlink()
    remove_container(home, 3)
    assert podman()[0][-1] == container_name(home, 3)
    assert not marker.exists()


def test_names_differ_by_home_and_run(tmp_path):
    names = {container_name(Home(tmp_path / home), number) for home in "ab" for number in (1, 2)}
    assert len(names) == 4
