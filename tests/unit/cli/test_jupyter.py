"""`conjure jupyter`, as far as it goes without JupyterLab."""

import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from conjure.cli.commands import jupyter
from conjure.cli.main import _run
from conjure.core.home import Home

TOKEN = "3bbd0294d3b2ab786796e9612c5cb0efff58f18a5ed0ef08"


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _options(*words):
        return jupyter.command.make_context("jupyter", list(words)).params

    return _options


def spec_for(home, given, **server):
    lab = jupyter._Server(home, **{"port": 8888, "token": TOKEN} | server)
    return jupyter._spec(home, given, lab, 3600.0)


def test_a_sandbox_without_network_is_refused_in_one_sentence(capsys, options):
    assert _run(["jupyter", "--sandbox"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: a sandbox without network cannot be reached by a browser\n")
    assert "conjure jupyter --sandbox --network" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--image", "localhost/x:1"), "it runs outside containers"),
        (("--apt", "tree"), "it runs outside containers"),
        (("--on", "gpu"), "it is one process on this machine"),
        (("--distributed", "2"), "it is one process on this machine"),
        (("--nodes", "2"), "it is one process on this machine"),
    ],
)
def test_what_no_browser_here_could_reach_is_refused_in_one_sentence_and_not_in_the_help(
    capsys, options, words, why
):
    assert _run(["jupyter", *words]) == 2
    assert capsys.readouterr().err == f"error: conjure jupyter does not support {words[0]}: {why}\n"
    assert _run(["jupyter", "--help"]) == 0
    assert words[0] not in re.findall(r"--[\w-]+", capsys.readouterr().out)


@pytest.mark.parametrize("words", [("--idle-timeout", "90"), ("--port", "0"), ("--port", "65536")])
def test_a_wrong_value_is_refused(capsys, options, words):
    assert _run(["jupyter", *words]) == 2
    assert "error: " in capsys.readouterr().err


def test_the_run_has_jupyterlab_its_token_as_a_secret_and_the_options_of_a_run(conjure_home, options):
    home = Home(conjure_home)
    spec = spec_for(home, options("--pip", "tqdm", "--base", "none", "--label", "a", "-e", "N=1"))
    assert spec.kind == "jupyter"
    assert spec.environment.pip == ("tqdm", "jupyterlab")
    assert (spec.labels, spec.no_output) == (("a",), (".ipynb_checkpoints/",))
    assert {"--ip=127.0.0.1", "--port=8888", "--ServerApp.shutdown_no_activity_timeout=3600"} < set(
        spec.command
    )
    assert spec.variables == {"N": "1", "JUPYTER_TOKEN": TOKEN}
    stored = spec.stored()
    assert (stored.variables, TOKEN in str(stored)) == ({"N": "1", "JUPYTER_TOKEN": "***"}, False)


def test_only_a_server_that_takes_the_token_is_ours_and_no_other_users_is_asked(
    conjure_home, monkeypatch, tmp_path
):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Authorization"])
            self.send_response(200 if asked[-1] == "token mine" else 403)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = server.server_address[1]
            assert jupyter._Server(Home(conjure_home), port, "mine")._answers()
            assert not jupyter._Server(Home(conjure_home), port, "other")._answers()
            monkeypatch.setattr(jupyter, "_SOCKETS", tmp_path / "tcp")
            assert jupyter._Server(Home(conjure_home), port, "mine")._answers()  # where nothing is known
            line = f"0: 0100007F:{port:04X} 00000000:0000 0A 0:0 00:0 0 {os.geteuid() + 1} 0 1129\n"
            (tmp_path / "tcp").write_text(f"sl local_address rem_address st …\n{line}")
            assert not jupyter._Server(Home(conjure_home), port, "mine")._answers()
            assert len(asked) == 3
        finally:
            server.shutdown()
            thread.join()
    assert not jupyter._Server(Home(conjure_home), port, "mine")._answers()
