"""ps, info, metrics, stats, label, archive, diff, lineage and doctor: the installed command on real runs."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conjure.cli.main import COMMANDS, _run
from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from support.casting import wait_for_supervisors
from support.repositories import make_repository, write_files
from support.terminal import CONJURE, Terminal, conjure, environment

_TRAIN = """
import sys
from conjure import log_metric
for step in range(50):
    log_metric("loss", float(sys.argv[1]) / (step + 1), step)
    log_metric("accuracy", step / 50, step)
"""


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight runs of a repository.

    1 made a file; 2 and 3 trained with it, between them the code changed; 4 failed; 5 was killed;
    6 repeats 2; 8 was cast from within 7 and is archived.
    """
    root = tmp_path_factory.mktemp("looking")
    project = root / "project"
    make_repository(project, {"train.py": _TRAIN, "keep.txt": "k\n"})
    settings = environment() | {"CONJURE_HOME": str(root / "home")}
    settings["API_TOKEN"] = "hush"
    settings["PATH"] = f"{CONJURE.parent}:{settings['PATH']}"

    def cast(*arguments: str, status: int = 0) -> None:
        done = conjure(*arguments, folder=project, variables=settings)
        assert done.returncode == status, done.stderr

    train = ("-m", "runs/1/data.txt:in.txt", "-e", "API_TOKEN", "-d", "first try", "--label", "sweep")
    cast("run", "seq 3 > data.txt")
    cast("run", *train, "--param", "lr=1", "python train.py :lr:")
    write_files(project, {"train.py": _TRAIN + "print('done')\n", "new.txt": "n\n"})
    cast("run", "-m", "runs/1/data.txt:in.txt", "--param", "lr=4", "python train.py :lr:")
    cast("run", "exit 3", status=3)
    cast("run", "-b", "touch started; sleep 60")
    folder = root / "home" / "runs" / "5"
    while not list(folder.glob("work/**/started")):  # killed sooner, no signal would end it
        time.sleep(0.02)
    cast("kill", "5")
    cast("rerun", "2")
    cast("run", "conjure run -b true; conjure wait 8 > /dev/null")
    cast("archive", "8")
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
    """Runs a command in this process, which is quicker: (exit status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = _run(list(arguments))
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


@pytest.fixture
def read(call):
    """What a command gives programs."""

    def run(*arguments: str):
        status, out, err = call(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return run


def first_column(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()[1:]]


class TestPs:
    def test_newest_first(self, call) -> None:
        status, out, err = call("ps")
        assert (status, err) == (0, "")
        assert out.splitlines()[0].split() == [
            "RUN",
            "STATUS",
            "AGE",
            "DURATION",
            "METRIC",
            "PROJECT",
            "LABELS",
            "COMMAND",
        ]
        assert first_column(out) == ["7", "6", "5", "4", "3", "2", "1"]
        rows = dict(zip(first_column(out), out.splitlines()[1:], strict=True))
        assert "failed (exit 3)" in rows["4"]
        assert "loss 0.08" in rows["3"]
        assert "python train.py :lr:" in rows["3"]
        assert "sweep" in rows["2"]

    @pytest.mark.parametrize(
        ("options", "numbers"),
        [
            (["-a"], ["8", "7", "6", "5", "4", "3", "2", "1"]),
            (["--status", "failed", "--status", "killed"], ["5", "4"]),
            (["--label", "sweep"], ["6", "2"]),
            (["--sort", "loss"], ["6", "2", "3"]),
            (["--sort", "-loss", "-n", "1"], ["3"]),
            (["-n", "2"], ["7", "6"]),
        ],
    )
    def test_which_and_in_what_order(self, call, options: list[str], numbers: list[str]) -> None:
        assert first_column(call("ps", *options)[1]) == numbers

    def test_that_there_are_more_is_said(self, call) -> None:
        assert call("ps", "-n", "2")[2] == "Showing the newest 2; `conjure ps -a` shows all\n"
        assert call("ps", "-n", "7")[2] == ""

    def test_json(self, read) -> None:
        runs = {run["number"]: run for run in read("ps", "-a")}
        assert runs[4]["status"] == "failed"
        assert (runs[4]["end_reason"], runs[4]["exit_code"], runs[4]["command"]) == (
            "nonzero_exit",
            3,
            "exit 3",
        )
        assert (runs[5]["end_reason"], runs[5]["exit_code"], runs[5]["signal"]) == ("kill_requested", None, 9)
        assert runs[2]["metrics"] == {"accuracy": 0.98, "loss": 0.02}
        assert (runs[2]["params"], runs[2]["labels"]) == ({"lr": "1"}, ["sweep"])
        assert (runs[8]["archived"], runs[1]["archived"]) == (True, False)
        assert runs[1]["requested_at"] < runs[1]["ended_at"]

    def test_nothing_found(self, call) -> None:
        assert call("ps", "--label", "none") == (0, "", "No runs match\n")
        assert call("ps", "--sort", "los")[2] == (
            "None of these runs has a metric 'los'; available: accuracy, loss\n"
        )

    def test_an_empty_home(self, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "empty"))
        done = conjure("ps")
        assert (done.returncode, done.stdout) == (0, "")
        assert "No runs yet" in done.stderr
        assert conjure("ps", "--json").stdout == "[\n]\n"

    @pytest.mark.usefixtures("home")
    def test_on_a_terminal_it_fits(self) -> None:
        terminal = Terminal("ps", "-a")
        assert terminal.close() == 0
        assert "\x1b[31mfailed (exit 3)" in terminal.shown
        assert "…" in terminal.shown  # the command is cut, nothing else
        assert "loss 0.08" in terminal.shown

    @pytest.mark.usefixtures("home")
    @pytest.mark.parametrize("command", ["ps -a", "info 2", "metrics 2 --csv", "diff 1 2", "lineage 6"])
    def test_a_reader_that_has_enough(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {CONJURE} {command} | head -1"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


class TestInfo:
    def test_everything(self, call) -> None:
        status, out, err = call("info", "2")
        assert (status, err) == (0, "")
        above = [line for line in out.split("\npackages")[0].splitlines() if "  " in line.strip()]
        facts = dict(line.split("  ", 1) for line in above)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        assert facts["status"] == "complete"
        assert (facts["end reason"], facts["exit status"]) == ("completed", "0")
        assert facts["command"] == "python train.py :lr:"
        assert (facts["description"], facts["labels"]) == ("first try", "sweep")
        assert facts["commit"].endswith(" on main")
        assert facts["outputs"] == "no new files"
        for line in (
            "  lr  1",
            "  API_TOKEN  ***",
            "  in.txt  runs/1/data.txt",
            "  loss      0.02 at step 49; lowest 0.02, highest 1; 50 points",
            "  run 6  repeats it",
        ):
            assert line in out.splitlines()
        assert any(line.strip().startswith("pytest ") for line in out.split("\npackages")[1].splitlines())
        assert "hush" not in out

    def test_uncommitted_changes_and_uses(self, call) -> None:
        assert "with uncommitted changes" in call("info", "3")[1]
        out = call("info", "1")[1]
        assert "  run 2  runs/1/data.txt as in.txt" in out
        assert "  run 6  runs/1/data.txt as in.txt" in out
        assert "1 file, 6 B (conjure ls runs/1)" in out

    def test_how_it_ended(self, call) -> None:
        assert "exit status  3" in call("info", "4")[1]
        assert "signal      9 (Killed)" in call("info", "5")[1]
        assert "run 7  started this run" in call("info", "8")[1]

    def test_json(self, read, home: Home) -> None:
        info = read("info", "2")
        with SqliteDatabase.open(home) as store:
            record = json.loads(json.dumps(store.get(2).to_dict()))
        assert {name: info[name] for name in record} == record
        assert info["metrics"]["loss"]["highest"] == 1.0
        assert [(edge["target"], edge["tie"]) for edge in info["made_from_it"]] == [("runs/6", "rerun")]
        assert "pytest" in info["environment"]["packages"]
        assert "hush" not in json.dumps(info)

    def test_links(self, call, read) -> None:
        call("link", "best", "runs/2")
        assert read("info", "2")["links"] == [{"name": "best", "resource": "runs/2"}]
        assert read("info", "1")["links"] == []

    @pytest.mark.parametrize("command", [["info"], ["metrics"], ["stats"], ["lineage"], ["diff", "1"]])
    def test_a_number_that_is_not_there(self, call, command: list[str]) -> None:
        assert call(*command, "99") == (
            1,
            "",
            "error: there is no run 99; the newest is 8\n  try: conjure ps\n",
        )

    def test_something_that_is_no_number(self, call) -> None:
        status, out, err = call("info", "best")
        assert (status, out) == (2, "")
        assert "'best' is not a run number; `conjure ps` lists runs" in err


class TestMetrics:
    def test_table(self, call) -> None:
        assert call("metrics", "2") == (
            0,
            "METRIC    POINTS  STEP  LAST  LOWEST  HIGHEST\n"
            "accuracy      50    49  0.98       0     0.98\n"
            "loss          50    49  0.02    0.02        1\n",
            "",
        )
        assert first_column(call("metrics", "2", "loss")[1]) == ["loss"]

    def test_csv(self, call) -> None:
        rows = list(csv.DictReader(call("metrics", "3", "loss", "--csv")[1].splitlines()))
        assert [float(row["value"]) for row in rows] == [4 / (step + 1) for step in range(50)]
        assert [row["step"] for row in rows] == [str(step) for step in range(50)]
        assert len(call("metrics", "3", "--csv")[1].splitlines()) == 101

    def test_json(self, read) -> None:
        points = read("metrics", "3")
        assert len(points) == 100
        assert points[0] == {"name": "loss", "step": 0, "value": 4.0, "time": points[0]["time"]}
        assert read("metrics", "1") == []

    def test_plot(self, call) -> None:
        status, out, _ = call("metrics", "2", "--plot")
        assert status == 0
        assert [line.strip() for line in out.splitlines() if line.strip() in ("loss", "accuracy")] == [
            "accuracy",
            "loss",
        ]
        assert "1.00┤" in out

    def test_nothing_reported(self, call) -> None:
        assert call("metrics", "1") == (0, "", "Run 1 has reported no metric\n")

    def test_usage(self, call) -> None:
        status, _, err = call("metrics", "2", "los")
        assert (status, err) == (1, "error: run 2 has no metric 'los'; did you mean loss?\n")
        assert call("metrics", "1", "loss")[2] == "error: run 1 has no metric 'loss'; it has none\n"
        assert call("metrics", "2", "--csv", "--json")[0] == 2


class TestStats:
    def test_after_the_end(self, call, read) -> None:
        out = call("stats", "2")[1]
        assert out.splitlines()[0].split() == ["run", "2"]
        assert "peak memory" in out
        stats = read("stats", "2")
        assert (stats["status"], stats["now"]) == ("complete", None)
        assert stats["usage"]["peak_memory_bytes"] > 1_000_000
        assert stats["usage"]["cpu_s"] > 0

    @pytest.mark.usefixtures("home")
    def test_while_it_runs_and_to_its_end(self, tmp_path: Path) -> None:
        hold = "import time; held = bytearray(70_000_000); open('ready', 'w'); time.sleep(60)"
        (tmp_path / "code").mkdir()
        cast = [CONJURE, "run", "-b", "python", "-c", hold]
        subprocess.run(cast, cwd=tmp_path / "code", env=environment(), check=True, capture_output=True)
        try:
            ready = tmp_path / "home/runs/9/work/ready"
            while not ready.exists():
                time.sleep(0.02)
            now = json.loads(conjure("stats", "9", "--json").stdout)
            assert now["status"] == "running"
            assert now["now"]["memory_bytes"] > 70_000_000
            assert now["usage"]["peak_memory_bytes"] >= now["now"]["memory_bytes"]
            follow = subprocess.Popen(
                [CONJURE, "stats", "-f", "9"], env=environment(), stdout=subprocess.PIPE, text=True
            )
            assert follow.stdout is not None
            assert follow.stdout.readline().startswith("cpu ")
        finally:
            conjure("kill", "9")
        rest, _ = follow.communicate(timeout=60)
        assert follow.returncode == 0
        assert "killed" in rest
        assert "peak memory" in rest


class TestLabelsAndArchive:
    def test_label(self, call) -> None:
        assert call("label", "1", "good one") == (0, "Run 1: good one\n", "")
        assert first_column(call("ps", "--label", "good one")[1]) == ["1"]
        assert call("label", "1", "good one", "--remove") == (0, "Run 1: no labels\n", "")
        status, _, err = call("label", "1", "good one", "--remove")
        assert (status, err) == (1, "error: run 1 has no label 'good one'; it has none\n")
        assert call("label", "1", " x")[0] == 2

    def test_archive_and_back(self, call) -> None:
        assert call("archive", "1", "#2") == (0, "Run 1: archived\nRun 2: archived\n", "")
        assert first_column(call("ps")[1]) == ["7", "6", "5", "4", "3"]
        assert "archived" in call("info", "1")[1]
        assert call("unarchive", "runs/1") == (0, "Run 1: no longer archived\n", "")
        assert first_column(call("ps")[1])[-1] == "1"

    def test_all_or_none(self, call) -> None:
        assert call("archive", "1", "99")[0] == 1
        assert "1" in first_column(call("ps")[1])

    def test_a_run_that_goes_on_is_not_put_away(self, call, tmp_path: Path) -> None:
        (tmp_path / "code").mkdir()
        subprocess.run(
            [CONJURE, "run", "-b", "sleep 60"],
            cwd=tmp_path / "code",
            env=environment(),
            check=True,
            capture_output=True,
        )
        try:
            status, _, err = call("archive", "9")
            assert status == 1
            assert "only ended runs can be archived" in err
        finally:
            conjure("kill", "9")


class TestDiff:
    def test_what_differs(self, call) -> None:
        status, out, err = call("diff", "2", "3")
        assert (status, err) == (0, "")
        assert out.splitlines()[:2] == ["- run 2", "+ run 3"]
        lines = [line.strip() for line in out.splitlines()]
        for line in (
            "+ uncommitted changes  yes",
            "+1     -0  new.txt (added)",
            "+1     -0  train.py",
            "2 files, +2 -0 lines",
            "lr  1 → 4",
            "- API_TOKEN  ***",
            "loss  0.02 → 0.08  (+0.06)",
        ):
            assert line in lines
        assert "packages" not in lines
        assert "mounts" not in lines

    def test_json(self, read) -> None:
        found = read("diff", "2", "3")
        assert found["params"] == [{"name": "lr", "before": "1", "after": "4"}]
        assert [file["path"] for file in found["code"]["files"]] == ["new.txt", "train.py"]
        assert found["packages"] == []

    def test_a_rerun_does_not_differ(self, call) -> None:
        assert call("diff", "2", "6") == (0, "", "Runs 2 and 6 do not differ\n")


class TestLineage:
    def test_up(self, call) -> None:
        status, out, err = call("lineage", "6")
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            "run 6  complete  python train.py :lr:",
            "├─ in.txt ← run 1  complete  seq 3 > data.txt",
            "└─ repeats run 2  complete  python train.py :lr:",
            "   └─ in.txt ← run 1  complete  seq 3 > data.txt",
        ]

    def test_down(self, call) -> None:
        assert call("lineage", "1", "--down")[1].splitlines() == [
            "run 1  complete  seq 3 > data.txt",
            "├─ as in.txt → run 2  complete  python train.py :lr:",
            "│  └─ repeated as run 6  complete  python train.py :lr:",
            "├─ as in.txt → run 3  complete  python train.py :lr:",
            "└─ as in.txt → run 6  complete  python train.py :lr:",
        ]

    def test_json(self, read) -> None:
        found = read("lineage", "2")
        (edge,) = found["edges"]
        assert (edge["source"], edge["target"], edge["place"]) == ("runs/1", "runs/2", "in.txt")
        assert found["runs"]["runs/1"]["status"] == "complete"

    def test_nothing(self, call) -> None:
        assert call("lineage", "1")[2] == "Run 1 has no inputs other than its code\n"
        assert call("lineage", "4", "--down")[2] == "Nothing was made from run 4 yet\n"


class TestDoctor:
    def test_all_is_well(self, call, read) -> None:
        status, out, _ = call("doctor")
        assert status == 0
        assert all(line.startswith("ok ") for line in out.splitlines() if "try:" not in line)
        assert "8 runs, 0 active" in out
        assert {finding["state"] for finding in read("doctor")} == {"ok"}

    def test_a_lost_database(self, call, home: Home) -> None:
        before = call("ps", "-a", "--json")[1]
        home.database.write_bytes(b"nothing that SQLite knows" * 50)
        for extra in home.root.glob("conjure.db-*"):
            extra.unlink()
        status, _, err = call("ps")
        assert status == 1
        assert "conjure doctor --reindex" in err
        assert call("doctor")[0] == 1
        status, _, err = call("doctor", "--reindex")
        assert status == 0
        assert err.startswith("Rebuilt the records of 8 runs; the damaged file is now ")
        assert call("ps", "-a", "--json")[1] == before

    def test_a_run_whose_supervisor_was_killed(self, call, home: Home, tmp_path: Path) -> None:
        (tmp_path / "code").mkdir()
        subprocess.run(
            [CONJURE, "run", "-b", "touch up; sleep 60"],
            cwd=tmp_path / "code",
            env=environment(),
            check=True,
            capture_output=True,
        )
        while not (home.run_folder(9) / "work/up").exists():
            time.sleep(0.02)
        with SqliteDatabase.open(home) as store:
            owner = store.get(9).owner
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
        while "interrupted" not in call("ps", "-n", "1")[1]:
            time.sleep(0.05)
        assert call("doctor")[0] == 0

    def test_torch_is_not_imported(self) -> None:
        program = "import sys; from conjure.cli.main import _run; _run(['doctor'])"
        program += "; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment())
        assert done.returncode == 0


@pytest.mark.usefixtures("home")
def test_names_that_are_not_utf_8_do_not_end_a_listing(home: Home) -> None:
    odd = """SET spec = json_set(spec, '$.variables', json('{"A": "caf\\udce9"}')) WHERE number = 1"""
    with SqliteDatabase.open(home) as store, store._session.transaction():
        store._session.connection.execute(f"UPDATE runs {odd}")
    for arguments in (["info", "1"], ["info", "1", "--json"], ["diff", "1", "2", "--json"]):
        done = conjure(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "caf\\udce9" in done.stdout


@pytest.mark.parametrize(
    "verb", ["ps", "info", "metrics", "stats", "label", "archive", "unarchive", "diff", "lineage", "doctor"]
)
def test_every_option_is_explained(verb: str, capsys) -> None:
    assert verb in COMMANDS
    assert _run([verb, "--help"]) == 0
    options = [line.strip() for line in capsys.readouterr().out.partition("Options:")[2].splitlines()]
    assert "--help" in options[-1]
    for line in options:
        assert not line.startswith("-") or "  " in line, line
