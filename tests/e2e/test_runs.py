"""The installed command: transcripts, exit statuses, ^C, what is said when something is wrong."""

import json
import signal
import subprocess
import sys

import pytest

from support.casting import is_running, nap, wait_until
from support.repositories import make_repository, write_files
from support.terminal import CONJURE, Terminal, conjure, environment, installed

TOTAL = "🎉 Total run time: "


@pytest.fixture(autouse=True)
def project(client, folder):
    """An empty current folder; runs that are left are killed."""
    return folder


def shown(done):
    """The lines of a transcript, without how long it took."""
    return [line for line in done.stdout.splitlines() if "Total run time" not in line]


# ---- the transcript ----------------------------------------------------------------------------------------


def test_hello_world():
    done = installed("run", "echo Hello World")
    assert shown(done) == [
        "💫 Casting run #1…",
        "✨ Stop viewing logs with ^C",
        "✨ Building… done",
        "✨ Run is running",
        "Hello World",
        "✨ Saving… done (no new files)",
        "🎉 Run 1 complete",
    ]
    assert done.stdout.splitlines()[-2].startswith(TOTAL)
    assert (done.returncode, done.stderr) == (0, "")


def test_outputs_are_mounted_into_the_next_run():
    conjure("run", "wc -c < /dev/null > count.txt; seq 1000 > data.txt")
    done = conjure("run", "-m", "runs/1/data.txt", "python -c \"print(sum(map(int, open('data.txt'))))\"")
    assert shown(done)[2:-2] == ["✨ Building… done", "✨ Mounting… done", "✨ Run is running", "500500"]


def test_a_failed_run_says_where_to_look_and_passes_the_status_on():
    done = conjure("run", "echo oh >&2; touch made; exit 7")
    assert (done.returncode, done.stderr) == (7, "oh\n")
    assert shown(done)[-3:] == [
        "✨ Saving… done (1 file, 0 B → runs/1)",
        "💥 Run 1 failed (exit status 7)",
        "   Log: conjure logs 1   Details: conjure info 1",
    ]


def test_the_output_keeps_its_lines_whole():
    done = conjure("run", "printf 'no end'")
    assert "no end\n✨ Saving… done (no new files)\n" in done.stdout


def test_a_progress_bar_comes_once_where_there_is_no_terminal():
    line = "python -c \"import sys; [print(f'\\r{i}%', end='', flush=True) for i in range(100)]; print()\""
    assert shown(conjure("run", line))[4] == "99%"


def test_without_unicode_there_are_no_emoji():
    done = subprocess.run(
        [CONJURE, "run", "echo Hello"],
        capture_output=True,
        env=environment() | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout.decode("ascii").splitlines()[:2] == ["Casting run #1...", "Stop viewing logs with ^C"]


def test_on_a_terminal_there_are_spinners_and_colours():
    terminal = Terminal("run", "sleep 0.3; echo Hello; exit 1")
    assert terminal.close() == 1
    assert "\r\x1b[2K" in terminal.shown
    assert "Building…" in terminal.shown
    assert (
        "\x1b[31mRun 1 failed" in terminal.shown
        or "\x1b[31m💥 Run 1 failed (exit status 1)\x1b[0m" in terminal.shown
    )


# ---- exit statuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["run", "exit 66"], 66),
        (["run", "kill -SEGV $$"], 128 + 11),
        (["run", "no-such-program", "x"], 127),
        (["run", "--timeout", "0.2s", "sleep 89111"], 128 + 15),
        (["run"], 125),
        (["run", "--no-such-option", "true"], 125),
        (["run", "--timeout", "90", "true"], 125),
        (["run", "-m", "runs/9", "true"], 125),
        (["run", "--stop-condition", "loss == 3", "true"], 125),
        (["run", "-c", "no-such-commit", "true"], 125),
        (["rerun", "9"], 125),
        (["logs", "9"], 1),
        (["wait", "nine"], 2),
    ],
)
def test_exit_statuses(arguments, status):
    done = conjure(*arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_wait_and_logs_pass_the_status_on():
    conjure("run", "-b", "echo Hello; exit 3")
    assert conjure("wait", "1").returncode == 3
    followed = conjure("logs", "-f", "1")
    assert followed.returncode == 3
    assert "Hello" in followed.stdout.splitlines()
    assert conjure("logs", "1").returncode == 0
    conjure("run", "true")
    done = conjure("wait", "2", "1", "runs/1")
    assert (done.returncode, done.stdout) == (3, "Run 2 complete\nRun 1 failed (exit status 3)\n")


# ---- background, ^C, stop, kill ----------------------------------------------------------------------------


def test_in_the_background():
    done = conjure("run", "-b", "-d", "a try", "--label", "x", f"sleep {nap(89222)}")
    assert done.stdout.splitlines() == ["💫 Casting run #1…", "✨ View its output: conjure logs -f 1"]
    assert (conjure("kill", "1").stdout, conjure("kill", "#1").stdout) == (
        "Run 1 killed\n",
        "Run 1 had already ended: killed\n",
    )
    assert not is_running(nap(89222))


def test_interrupting_detaches_and_the_run_goes_on(conjure_home):
    process = subprocess.Popen(
        [CONJURE, "run", "echo ready; while [ ! -e ../go ]; do sleep 0.05; done; echo done > done.txt"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    assert [line.partition("conjure ")[2] for line in rest.splitlines()] == [
        "",
        "logs -f 1",
        "stop 1",
        "kill 1",
    ]
    (conjure_home / "runs" / "1" / "go").touch()
    assert conjure("wait", "1").stdout == "Run 1 complete\n"


FOLLOW_AND_STOP = """
import sys
from conjure.cli.run_view import follow_run
from conjure.core.home import Home
sys.exit(follow_run(Home.from_environment(), 1, interrupt_stops=True))
"""


def test_where_the_first_interrupt_stops_the_run_saves():
    conjure("run", "-b", "trap 'echo saved > s.txt; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW_AND_STOP], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 3
    assert "✨ Stopping and saving; press ^C again to abort\n" in rest
    assert "✋ Run 1 stopped\n" in rest
    assert "1 file" in rest


def test_where_the_second_interrupt_aborts_it():
    conjure("run", "-b", "trap 'echo heard' TERM; touch made; echo ready; while :; do sleep 0.05; done")
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW_AND_STOP], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line in ("ready\n", "heard\n"):
            process.send_signal(signal.SIGINT)
        if line == "heard\n":
            break
    rest, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert "💀 Run 1 killed\n" in rest


def test_what_was_printed_last_comes_before_the_saving_on_a_terminal():
    terminal = Terminal("run", "printf 'no end'")
    terminal.close()
    assert "no end\r\n" in terminal.shown
    assert terminal.shown.index("no end") < terminal.shown.index("Saving")


def test_a_closed_terminal_ends_no_run(conjure_home):
    terminal = Terminal("run", "echo ready; while [ ! -e ../go ]; do sleep 0.05; done")
    terminal.read_until("ready")
    terminal.process.send_signal(signal.SIGHUP)  # as the kernel does when the terminal's window is closed
    assert terminal.close() == -signal.SIGHUP
    (conjure_home / "runs" / "1" / "go").touch()
    assert conjure("wait", "1").returncode == 0


def test_stop_saves_and_kill_does_not(conjure_home):
    for number in (1, 2):
        conjure("run", "-b", f"touch made; echo ready; sleep {nap(89333)}")
        log = conjure_home / "runs" / str(number) / "log.jsonl"
        wait_until(lambda log=log: log.exists() and "ready" in log.read_text(), "the command's start")
    (stopped,) = json.loads(conjure("stop", "--json", "1").stdout)
    (killed,) = json.loads(conjure("kill", "--json", "2").stdout)
    assert (stopped["status"], stopped["signal"], stopped["outputs"]["files"]) == ("stopped", 15, 1)
    assert (killed["status"], killed["signal"], killed["outputs"]) == ("killed", 9, None)
    assert conjure("recover", "2").stdout == "Recovered 1 file, 0 B → runs/2\n"


# ---- for programs ------------------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else():
    done = conjure("run", "--json", "--param", "lr=0.1", "echo :lr:; exit 4")
    record = json.loads(done.stdout)
    assert done.returncode == 4
    assert (record["number"], record["status"], record["exit_code"], record["end_reason"]) == (
        1, "failed", 4, "nonzero_exit",
    )  # fmt: skip
    assert record["params"] == {"lr": "0.1"}
    assert json.loads(conjure("run", "--json", "-b", "true").stdout)["status"] != "failed"


def test_logs_can_be_filtered():
    conjure("run", "echo one; echo two; echo three; echo oh >&2")
    assert conjure("logs", "1", "-n", "2", "--grep", "t").stdout == "two\nthree\n"
    assert (conjure("logs", "1", "--stderr").stdout, conjure("logs", "1", "--stderr").stderr) == ("", "oh\n")
    entries = [
        json.loads(line) for line in conjure("logs", "1", "--json", "-f", "-n", "9").stdout.splitlines()
    ]
    assert sorted(entry["text"] for entry in entries) == ["oh", "one", "three", "two"]
    assert conjure("logs", "1", "--timestamps", "--grep", "^two").stdout.endswith(" two\n")
    assert "is not a regular expression" in conjure("logs", "1", "--grep", "(").stderr


def test_logs_give_back_what_was_printed_byte_for_byte():
    conjure("run", "-b", "printf 'caf\\351\\r\\n\\000\\377 end'")
    conjure("wait", "1")
    done = subprocess.run([CONJURE, "logs", "1"], capture_output=True, env=environment())
    assert done.stdout == b"caf\xe9\r\n\x00\xff end"


def test_a_reader_that_has_had_enough_is_no_error():
    conjure("run", "seq 100000")
    done = subprocess.run(f"{CONJURE} logs 1 | head -1", shell=True, capture_output=True, env=environment())
    assert (done.stdout, done.stderr) == (b"1\n", b"")


# ---- words for what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "90", "true"], "'90' is not a duration: give a number with its unit"),
        (["--memory", "8", "true"], "'8' is not a size: give a number with its unit"),
        (["-m", "runs/1:a:b", "true"], "too many colons"),
        (["-m", "uploads/none", "true"], "uploads/none does not exist"),
        (["-e", "NOWHERE_TO_BE_FOUND", "true"], "there is no variable NOWHERE_TO_BE_FOUND here"),
        (["--param", "lr", "true"], "--param 'lr' has no value"),
        (["--param", "lr=1", "--param", "lr=2", "true"], "--param lr is given twice: '1' and '2'"),
        (["--cpus", "100000", "true"], "--cpus 100000: this machine has"),
        (["--conda-file", "x.yml", "true"], "conda environments are not supported"),
        (["--apt", "git", "true"], "--apt needs --image, as in --image docker.io/library/debian:12"),
        (["--docker-image", "x", "--base", "none", "true"], "cannot be combined: the image has its own"),
        (["--image", "x", "--sandbox", "true"], "--image and --sandbox cannot be combined"),
        (["--pip-req", "none.txt", "true"], "there is no requirements file none.txt"),
        (["--committed", "true"], "--committed needs a git repository"),
        (["--", ""], "the command is empty"),
    ],
)
def test_one_clear_sentence(arguments, words):
    done = conjure("run", *arguments)
    assert done.returncode == 125
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout in ("", "💫 Casting run #1…\n")


def test_a_placeholder_without_param_is_noted():
    done = conjure("run", "echo :lr:")
    assert done.stderr == "note: the command contains :lr:, but no --param lr=… was given\n"
    assert ":lr:" in shown(done)


# ---- options -----------------------------------------------------------------------------------------------


def test_what_follows_the_command_belongs_to_it():
    done = conjure("run", "echo", "-b", "--timeout", "5", "--", "x y")
    assert "-b --timeout 5 -- x y" in shown(done)


def test_a_sub_folder_of_a_repository_with_its_own_package(project, monkeypatch):
    make_repository(
        project, {"package/__init__.py": "name = 'own'\n", "examples/data.txt": "1", "a.txt": "old"}
    )
    write_files(project, {"a.txt": "uncommitted", "examples/new.txt": "untracked"})
    monkeypatch.chdir("examples")
    line = "import package, pathlib; print(package.name, *sorted(p.name for p in pathlib.Path().iterdir()))"
    done = conjure("run", "python", "-c", f"{line}; print(open('../a.txt').read())")
    assert shown(done)[4:6] == ["own data.txt new.txt", "uncommitted"]
    assert shown(conjure("run", "--committed", "cat", "../a.txt"))[4] == "old"


def test_another_repositorys_code(tmp_path):
    make_repository(tmp_path / "other", {"main.py": "print('from afar')\n"})
    done = conjure(
        "run", "--github-url", (tmp_path / "other").as_uri(), "--github-ref", "main", "python main.py"
    )
    assert "from afar" in shown(done)


def test_only_some_outputs_are_kept(conjure_home):
    conjure("run", "--output", "*.txt", "--no-output", "b*", "touch a.txt b.txt c.bin")
    assert [path.name for path in (conjure_home / "runs" / "1" / "outputs").iterdir()] == ["a.txt"]


def test_a_rerun_is_exact(project):
    write_files(project, {"a.txt": "first"})
    conjure("run", "cat a.txt; test -e again || touch again")
    write_files(project, {"a.txt": "second"})
    done = conjure("rerun", "1")
    assert done.returncode == 0
    assert shown(done)[0] == "💫 Casting run #2…"
    assert "first" in done.stdout


def test_an_equal_run_is_reused():
    conjure("run", "--idempotent", "echo same")
    done = conjure("run", "--idempotent", "echo same")
    assert done.stdout == "♻️  Reusing run 1, which is identical and complete\n"
    assert json.loads(conjure("run", "--idempotent", "--json", "echo same").stdout)["reused"] is True
