"""`conjure jupyter` with a real JupyterLab, which it fetches from the package index as a layer.

``make test-jupyter`` runs these.
"""

import json
import os
import re
import signal
import urllib.request
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.host.process import all_processes
from conjure.runs.schema.status import RunStatus
from support.casting import ending_runs, wait_until
from support.repositories import files_with
from support.terminal import conjure

_ADDRESS = re.compile(r"JupyterLab: (http://127\.0\.0\.1:\d+)/lab\?token=([0-9a-f]{48})")
_NOTEBOOK = {"type": "notebook", "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}}


@pytest.fixture
def client(tmp_path_factory, monkeypatch, tmp_path):
    """Runs in a project of the test; the home is shared, for the sake of the environment in it."""
    home = Home(tmp_path_factory.getbasetemp() / "home")
    monkeypatch.setenv("CONJURE_HOME", str(home.root))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "module.py").write_text("NAME = 'mine'\n")
    monkeypatch.chdir(folder)
    with ending_runs(home) as client:
        client.run("true", pip=["jupyterlab"]).wait(check=True)  # fetching it takes minutes, once
        yield client


class Lab:
    """A JupyterLab that was started, and its run."""

    def __init__(self, client, *options):
        done = conjure("jupyter", "--background", "--no-open", *options)
        assert done.returncode == 0, done.stderr
        self.address, self.token = _ADDRESS.search(done.stdout).groups()
        self.run = client.runs(limit=1)[0]

    def ask(self, method, path, body=None, token=None):
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token if token is None else token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def kernels(self):
        """The processes of kernels of this run, each with its program."""
        found = {}
        for process in all_processes():
            folder = Path(f"/proc/{process.pid}")
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = os.fsencode(f"JUPYTER_TOKEN={self.token}") in variables
            if mine and b"ipykernel_launcher" in words:
                found[process.pid] = os.fsdecode(words[0])
        return found


@pytest.mark.parametrize("options", [(), ("--sandbox", "--network")], ids=["plain", "sandbox"])
def test_a_notebook_session_that_is_stopped_keeps_its_files(client, options):
    lab = Lab(client, *options)
    lab.ask("PUT", "/api/contents/made.ipynb", _NOTEBOOK)
    assert {entry["name"] for entry in lab.ask("GET", "/api/contents")["content"]} >= {
        "module.py",
        "made.ipynb",
    }
    lab.ask("POST", "/api/kernels", {})
    wait_until(lab.kernels, "a kernel runs")
    environment = client.home.environments / lab.run.record.environment.digest
    assert {Path(program).parent for program in lab.kernels().values()} == {environment / "bin"}
    lab.run.stop()
    assert lab.run.status is RunStatus.STOPPED
    assert lab.kernels() == {}
    outputs = client.home.run_folder(lab.run.number) / "outputs"
    assert [path.name for path in outputs.rglob("*")] == ["made.ipynb"]


def test_nobody_gets_in_without_the_token_and_it_is_stored_nowhere(client):
    lab = Lab(client)
    with pytest.raises(urllib.error.HTTPError) as caught:
        lab.ask("GET", "/api/contents", token="0" * 48)
    with caught.value as answer:  # it holds the connection
        assert answer.code == 403
    lab.run.stop()
    assert files_with(client.home.run_folder(lab.run.number), lab.token) == []
    assert lab.token.encode() not in client.home.database.read_bytes()


def test_it_ends_by_itself_when_it_is_idle(client):
    run = Lab(client, "--idle-timeout", "2s").run.wait()
    assert run.status is RunStatus.COMPLETE


def test_a_killed_server_leaves_no_kernel(client):
    lab = Lab(client)
    lab.ask("POST", "/api/kernels", {})
    wait_until(lab.kernels, "a kernel runs")
    server = next(process for process in all_processes() if _is_server(process, lab.token))
    os.kill(server.pid, signal.SIGKILL)
    assert lab.run.wait().status is RunStatus.FAILED
    assert lab.kernels() == {}


def _is_server(process, token):
    folder = Path(f"/proc/{process.pid}")
    try:
        mine = f"JUPYTER_TOKEN={token}".encode() in (folder / "environ").read_bytes().split(b"\0")
        return mine and any(
            word.endswith(b"/jupyter-lab") for word in (folder / "cmdline").read_bytes().split(b"\0")
        )
    except OSError:
        return False
