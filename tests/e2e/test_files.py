"""ls, cp, upload, link, unlink, rm, verify and prune: the installed command on real runs."""

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conjure.cli.main import _run
from conjure.core.home import Home
from support.casting import wait_for_supervisors
from support.repositories import read_files, write_files
from support.terminal import CONJURE, conjure, environment

_ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three runs: 1 made files, 2 mounted one of them, 3 was killed."""
    root = tmp_path_factory.mktemp("files")
    project = root / "project"
    write_files(project, {"code.txt": "c"})
    settings = environment() | {"CONJURE_HOME": str(root / "home")}
    make = "mkdir -p model/deep; echo w > model/deep/w.bin; echo d > data.txt; touch $(printf 'caf\\351')"
    for command in (
        ["run", make],
        ["run", "-m", "runs/1/data.txt", "cat data.txt > copy.txt"],
        ["run", "-b", "echo half > half.txt; sleep 60"],
    ):
        assert conjure(*command, folder=project, variables=settings).returncode == 0
    half = root / "home/runs/3/work/half.txt"
    while not half.exists():
        time.sleep(0.02)
    listed = conjure("ls", "runs/3", variables=settings)
    assert listed.stdout == "code.txt\nhalf.txt\n"  # while it runs
    got = conjure("cp", "runs/3/half.txt", root / "got", variables=settings)
    assert (got.returncode, read_files(root / "got")) == (0, {"half.txt": "half\n"})
    assert conjure("kill", "3", variables=settings).returncode == 0
    wait_for_supervisors(Home(root / "home"))
    return root / "home"


@pytest.fixture
def home(cast: Path, tmp_path: Path, monkeypatch) -> Home:
    """A copy of that home for one test."""
    copy = tmp_path / "home"
    shutil.copytree(cast, copy, symlinks=True)
    monkeypatch.setenv("CONJURE_HOME", str(copy))
    monkeypatch.chdir(tmp_path)
    return Home(copy)


@pytest.fixture
def call(home: Home, capsys):
    """The command in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = _run(list(arguments))
        return status, *capsys.readouterr()

    return run


def ask(answer: str, *arguments: str) -> tuple[int, str]:
    """The command with a person at its terminal: exit status, and what it said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [CONJURE, *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    os.write(ours, answer.encode())
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    return process.returncode, output.decode()


class TestLs:
    def test_from_the_top(self, call) -> None:
        call("link", "best", "runs/1/model")
        assert call("ls")[1] == "runs/\nuploads/\nbest\n"
        assert call("ls", "runs")[1] == "1/\n2/\n3/\n"
        assert call("ls", "runs/1/")[1] == "caf\\xe9\ndata.txt\nmodel/\n"
        assert call("ls", "best")[1] == "deep/\n"
        assert call("ls", "runs/1/data.txt")[1] == "data.txt\n"

    def test_details(self, call, home: Home) -> None:
        (home.run_folder(1) / "outputs/link").symlink_to("data.txt")
        lines = call("ls", "-l", "runs/1")[1].splitlines()
        assert [line.split()[0] for line in lines] == ["0", "2", "-", "-"]
        assert lines[2].endswith("  link -> data.txt")
        assert lines[1].endswith(time.strftime("%Y-%m-%d ") + lines[1].split()[3] + "  data.txt")

    def test_json(self, call) -> None:
        listed = json.loads(call("ls", "runs/1", "--json")[1])
        assert [(each["path"], each["kind"], each["size_bytes"]) for each in listed] == [
            ("runs/1/caf\\xe9", "file", 0),
            ("runs/1/data.txt", "file", 2),
            ("runs/1/model", "folder", None),
        ]
        assert json.loads(call("ls", "uploads", "--json")[1]) == []

    def test_unknown(self, call) -> None:
        status, out, err = call("ls", "runs/9")
        assert (status, out) == (1, "")
        assert "runs/9 does not exist; the latest run is 3" in err

    @pytest.mark.usefixtures("home")
    def test_cut_off_pipe(self) -> None:
        done = subprocess.run(f"{CONJURE} ls runs | head -1", shell=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("1/\n", "")


class TestCp:
    def test_folder_into_the_current_one(self, call, tmp_path: Path) -> None:
        status, out, err = call("cp", "runs/1", "out")
        assert (status, out) == (0, "")
        assert "Copied 3 files (4 B) to out" in err
        assert read_files(tmp_path / "out") == {_ODD: "", "data.txt": "d\n", "model/deep/w.bin": "w\n"}
        assert call("cp", "runs/1/data.txt")[0] == 0
        assert (tmp_path / "data.txt").read_text() == "d\n"

    def test_without_a_terminal_nothing_is_overwritten(self, call, tmp_path: Path) -> None:
        write_files(tmp_path / "out", {"data.txt": "mine"})
        status, _, err = call("cp", "runs/1", "out")
        assert status == 1
        assert "1 file would be overwritten: data.txt" in err
        assert "-f" in err
        assert read_files(tmp_path / "out") == {"data.txt": "mine"}
        assert call("cp", "-f", "runs/1", "out")[0] == 0
        assert (tmp_path / "out/data.txt").read_text() == "d\n"

    @pytest.mark.parametrize(
        ("answer", "status", "content"), [("y\n", 0, "d\n"), ("n\n", 1, "mine"), ("\n", 1, "mine")]
    )
    @pytest.mark.usefixtures("home")
    def test_on_a_terminal_it_asks(self, tmp_path: Path, answer: str, status: int, content: str) -> None:
        write_files(tmp_path / "out", {"data.txt": "mine"})
        done, said = ask(answer, "cp", "runs/1/data.txt", "out")
        assert (done, (tmp_path / "out/data.txt").read_text()) == (status, content)
        assert "Overwrite data.txt? [y/N]" in said


class TestUploadAndLink:
    def test_upload_prints_its_path_and_can_be_mounted(self, call, tmp_path: Path) -> None:
        write_files(tmp_path / "images", {"a.png": "a"})
        status, out, err = call("upload", "images")
        assert (status, out) == (0, "uploads/images\n")
        assert "1 file, 1 B: version 1" in err
        assert "identical to version 1" in call("upload", "images")[2]
        (tmp_path / "images/a.png").write_text("new")
        assert "version 2" in call("upload", "images")[2]
        done = conjure("run", "-m", "uploads/images@1:in", "cat in/a.png", text="")
        assert (done.returncode, done.stdout.splitlines().count("a")) == (0, 1)

    def test_bad_upload(self, call) -> None:
        assert "there is no file or folder nope" in call("upload", "nope")[2]

    def test_link(self, call) -> None:
        assert call("link", "best", "runs/1/model")[1] == "best -> runs/1/model\n"
        assert call("link", "deeper", "best/deep")[1] == "deeper -> runs/1/model/deep\n"
        assert call("link", "best")[1] == "best -> runs/1/model\n"
        assert [each["name"] for each in json.loads(call("link", "--json")[1])] == ["best", "deeper"]
        assert call("ls", "deeper")[1] == "w.bin\n"
        status, _, err = call("link", "best", "runs/2")
        assert status == 1
        assert "link 'best' already exists and points to runs/1/model" in err
        assert call("unlink", "best")[0] == 0
        assert "there is no link 'best'" in call("unlink", "best")[2]
        assert "there is no link 'best'" in call("link", "best")[2]

    @pytest.mark.parametrize("name", ["runs", "Uploads", "datasets", "a/b", "a:b", ".x", "\uff52uns"])
    def test_names_that_could_be_mistaken(self, call, name: str) -> None:
        status, _, err = call("link", name, "runs/1")
        assert status == 2
        assert "cannot be the name of a link" in err

    def test_link_to_nothing(self, call) -> None:
        assert "runs/9 does not exist" in call("link", "x", "runs/9")[2]


class TestRm:
    def test_what_is_needed_is_refused(self, call, home: Home) -> None:
        call("link", "best", "runs/1/model")
        status, _, err = call("rm", "runs/1")
        assert status == 1
        assert "runs/1 is still needed: run 2 used it and link best points to it" in err
        assert (home.run_folder(1) / "outputs/data.txt").exists()

    def test_record_and_number_are_kept(self, call, home: Home) -> None:
        assert call("rm", "runs/2")[0] == 0
        assert call("rm", "runs/1")[0] == 0  # nothing needs it any more
        assert call("ls", "runs")[1] == "3/\n"
        assert "runs/1 has no files yet, or they were removed" in call("ls", "runs/1")[2]
        record = json.loads((home.run_folder(1) / "run.json").read_text())
        assert (record["outputs"]["files"], record["outputs"]["removed"]) == (3, True)
        assert (home.run_folder(1) / "log.jsonl").exists()
        conjure("run", "-b", "true")
        assert conjure("wait", "4").returncode == 0
        assert call("rm", "runs/1")[0] == 0  # again is no error

    @pytest.mark.parametrize("newest", ["last", "runs/last"])
    def test_the_newest_run(self, call, newest) -> None:
        status, _, err = call("rm", newest, "runs/3")
        assert (status, err.splitlines()[0].split(" (")[0], len(err.splitlines())) == (0, "Removed runs/3", 1)

    def test_force(self, call) -> None:
        assert call("rm", "-f", "runs/1")[0] == 0

    @pytest.mark.parametrize(
        ("answer", "option", "status"), [("n\n", "-f", 130), ("y\n", "-f", 0), ("", "-fy", 0)]
    )
    def test_on_a_terminal_it_asks_even_if_forced(
        self, home: Home, answer: str, option: str, status: int
    ) -> None:
        done, said = ask(answer, "rm", option, "runs/1")
        assert (done, (home.run_folder(1) / "outputs").exists()) == (status, status != 0)
        assert ("Permanently delete the files of runs/1? [y/N]" in said) == bool(answer)

    @pytest.mark.parametrize(
        ("resource", "status", "words"),
        [
            ("runs/9", 1, "there is no run 9"),
            ("runs/1/data.txt", 2, "is part of runs/1, which can only be removed as a whole"),
            ("uploads/nope", 1, "uploads/nope does not exist"),
            ("runs", 2, "means all runs"),
            (
                "best",
                2,
                "best is a link to runs/1/model; only the files of a run or an upload can be removed",
            ),
            (
                "best/a",
                2,
                "  hint: to remove those it leads to: conjure rm runs/1\n  try: conjure unlink best\n",
            ),
            ("runs/last/data.txt", 2, "is part of runs/3, which can only be removed as a whole"),
            ("last~9", 1, "there is no run last~9"),
        ],
    )
    def test_refused(self, call, resource: str, status: int, words: str) -> None:
        call("link", "best", "runs/1/model")
        done, _, err = call("rm", resource)
        assert done == status
        assert words in err

    def test_uploads(self, call, tmp_path: Path) -> None:
        write_files(tmp_path, {"a.txt": "1"})
        call("upload", "a.txt")
        conjure("run", "-m", "uploads/a.txt", "true")
        assert "uploads/a.txt is still needed: run 4 used it" in call("rm", "uploads/a.txt")[2]
        (tmp_path / "a.txt").write_text("2")
        call("upload", "a.txt")
        assert call("rm", "uploads/a.txt@2")[0] == 0
        assert call("rm", "-f", "uploads/a.txt")[0] == 0
        assert call("ls", "uploads")[1] == ""

    def test_running(self, call) -> None:
        conjure("run", "-b", "-m", "runs/1", "sleep 60")
        try:
            assert "run 4 is " in call("rm", "runs/4")[2]
            assert "runs/1 is in use by run 4" in call("rm", "-f", "runs/1")[2]
        finally:
            conjure("kill", "4")


class TestVerify:
    def test_untouched(self, call) -> None:
        status, out, _ = call("verify", "1", "runs/2")
        assert (status, out) == (0, "runs/1: 3 files, 4 B, unchanged\nruns/2: 1 file, 2 B, unchanged\n")

    def test_every_change_is_found(self, call, home: Home) -> None:
        outputs = home.run_folder(1) / "outputs"
        (outputs / "data.txt").chmod(0o644)
        (outputs / "data.txt").write_text("x\n")
        (outputs / "extra").touch()
        status, out, _ = call("verify", "1", "2")
        assert status == 1
        assert (
            out == "runs/1: data.txt was changed\nruns/1: extra was added\nruns/2: 1 file, 2 B, unchanged\n"
        )
        (found,) = json.loads(call("verify", "1", "--json")[1])
        assert (found["resource"], found["files"], len(found["faults"])) == ("runs/1", 3, 2)

    def test_upload(self, call, tmp_path: Path) -> None:
        write_files(tmp_path, {"a.txt": "1"})
        call("upload", "a.txt")
        assert call("verify", "uploads/a.txt")[1] == "uploads/a.txt@1: 1 file, 1 B, unchanged\n"

    def test_nothing_to_verify(self, call) -> None:
        assert "runs/3 has no saved outputs" in call("verify", "3")[2]
        call("rm", "runs/2")
        assert "the files of run 2 were removed" in call("verify", "2")[2]


class TestPrune:
    def test_working_folders_of_killed_runs(self, call, home: Home) -> None:
        assert (home.run_folder(3) / "work/half.txt").exists()
        freed = json.loads(call("prune", "--json")[1])
        assert (freed["working_folders"], freed["size_bytes"] >= 5) == ([3], True)
        assert not (home.run_folder(3) / "work").exists()
        assert read_files(home.run_folder(1) / "outputs")["data.txt"] == "d\n"
        assert call("prune")[1].startswith("Freed ")

    def test_on_a_terminal_it_asks_before_outputs_are_lost(self, home: Home) -> None:
        status, said = ask("n\n", "prune")
        assert (status, (home.run_folder(3) / "work").exists()) == (1, True)
        assert "The unsaved outputs of run 3 will be lost" in said
        assert ask("y\n", "prune")[0] == 0
        assert not (home.run_folder(3) / "work").exists()

    @pytest.mark.parametrize("flag", ["-y", "--yes", "-f"])
    def test_on_a_terminal_it_need_not_ask(self, home: Home, flag: str) -> None:
        status, said = ask("", "prune", flag)
        assert (status, (home.run_folder(3) / "work").exists()) == (0, False)
        assert "will be lost" not in said


@pytest.mark.usefixtures("home")
def test_output_is_plain_through_a_pipe() -> None:
    done = conjure("ls", "-l", "runs/1")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.usefixtures("home")
def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from conjure.cli.main import _run\n"
        "for line in ('ls runs/1', 'cp runs/1 out', 'verify 1', 'link'): assert _run(line.split()) == 0\n"
        "heavy = {'torch', 'numpy', 'plotext', 'uv', 'psutil'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
