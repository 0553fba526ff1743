"""A home that conjure 0.1.0 made, used by the conjure of today: every command finds what was left there.

`scripts/make-home-fixture` says what each of its runs is.
"""

import csv
import json
import os
import shutil
import sqlite3

import pytest

import conjure as public
from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from support.old_conjure import unpack_home
from support.repositories import read_files
from support.terminal import CONJURE, conjure
from support.wheels import make_wheel

STATUSES = {
    1: "complete",
    2: "complete",
    3: "failed",
    4: "complete",
    5: "stopped",
    6: "interrupted",
    7: "complete",
    8: "complete",
    9: "complete",
    10: "complete",
    11: "complete",
}


@pytest.fixture
def home(conjure_home, tmp_path, monkeypatch):
    """The home, in use; the current folder is empty."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{CONJURE.parent}{os.pathsep}{os.environ['PATH']}")
    return unpack_home(conjure_home)


def succeed(*arguments):
    """Standard output of a command that must succeed."""
    done = conjure(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def record(number):
    return json.loads(succeed("info", str(number), "--json"))


def outputs(home, number):
    return read_files(home.run_folder(number) / "outputs")


# ---- looking -----------------------------------------------------------------------------------------------


def test_ps_lists_every_run_with_its_status(home):
    listed = {run["number"]: run for run in json.loads(succeed("ps", "-a", "--json"))}
    archived = {8}
    assert {number: run["status"] for number, run in listed.items()} == {
        number: status for number, status in STATUSES.items() if number in listed
    }
    assert set(STATUSES) - set(listed) <= archived
    assert listed[3]["exit_code"] == 3
    labelled = json.loads(succeed("ps", "--label", "jokes", "--json"))
    assert [run["number"] for run in labelled] == [4]
    assert "counted" in succeed("ps", "--label", "counted")


def test_info_tells_what_was_asked_what_was_found_and_how_it_went(home):
    first = record(1)
    assert first["params"] == {"times": "3"}
    assert first["labels"] == ["counted"]
    assert first["description"] == "Counts the words."
    assert first["code"]["branch"] == "main"
    assert first["code"]["dirty"] is True
    assert first["outputs"]["files"] == 2
    assert record(2)["mounts"][1] == {
        "resource": "runs/1/table/lengths.csv",
        "target": "lengths.csv",
        "read_only": True,
        "source": "runs/1/table/lengths.csv",
    }
    assert record(6)["end_reason"] == "supervisor_died"
    assert record(7)["environment"]["packages"]["tiny-colours"] == "1.2"
    assert record(8)["archived_at"] is not None
    assert (record(9)["rerun_of"], record(11)["parent"]) == (1, 10)
    shown = succeed("info", "1")
    for words in ("python count.py", "Counts the words.", "counts.json"):
        assert words in shown


def test_logs_and_metrics_are_read(home):
    done = conjure("logs", "1")
    assert (done.stdout, done.stderr) == ("40 lines, 398 words\n", "counting is done\n")
    assert "no such column" in conjure("logs", "3").stderr
    rows = list(csv.DictReader(succeed("metrics", "1", "share", "--csv").splitlines()))
    assert [float(row["value"]) for row in rows] == [1 / 3, 2 / 3, 1.0]
    points = json.loads(succeed("metrics", "4", "--json"))
    assert {point["name"] for point in points} >= {"loss", "held_out_loss"}
    with SqliteDatabase.open(home) as store:
        assert store.summaries(1)["share"].last_value == 1.0
        assert store.summaries(1)["share"].points == 3
        assert store.latest_values([4])[4]["held_out_loss"] > 0


def test_diff_lineage_and_stats(home):
    same = conjure("diff", "1", "9")
    assert "do not differ" in same.stdout + same.stderr
    assert "hold.py" in succeed("diff", "1", "6")
    assert "uploads/texts@1" in succeed("lineage", "2")
    assert "366297088" in succeed("stats", "4", "--json")  # its peak of memory, bytes


def test_ls_and_cp(home, tmp_path):
    assert "counts.json" in succeed("ls", "runs/1")
    assert "texts" in succeed("ls", "uploads")
    assert "model.safetensors" in succeed("ls", "best")
    succeed("cp", "runs/1/table", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "lengths.csv").read_text().startswith("words\n")
    succeed("cp", "uploads/texts/jokes.txt", str(tmp_path / "copy"))
    assert len((tmp_path / "copy" / "jokes.txt").read_text().splitlines()) == 40


def test_verify_finds_every_file_as_it_was_saved(home):
    for number in (1, 2, 4, 5, 9):
        succeed("verify", str(number))
    damaged = home.run_folder(1) / "outputs" / "counts.json"
    damaged.chmod(0o644)
    damaged.write_text("{}")
    assert "counts.json" in conjure("verify", "1").stdout
    assert conjure("verify", "1").returncode == 1


def test_doctor_finds_no_fault_before_and_after_a_new_run(home):
    for runs in ("11 runs, 0 active", "12 runs, 0 active"):
        found = json.loads(succeed("doctor", "--json"))
        others = [each for each in found if each["state"] != "ok" and each["name"] != "disk"]
        # The killed supervisor of run 6 left its reserve behind; `conjure recover 6` may still be wanted.
        assert [(each["name"], each["fix"]) for each in others] == [("leftovers", "conjure prune")]
        assert runs in {each["text"] for each in found}
        succeed("run", "echo new")


def test_doctor_rebuilds_its_database_from_the_run_folders(home):
    succeed("unlink", "best")  # links are in the database alone
    before = {number: record(number) for number in STATUSES}
    for path in home.root.glob("conjure.db*"):
        path.unlink()
    succeed("doctor", "--reindex")
    assert {number: record(number) for number in STATUSES} == before


# ---- going on from what is there ---------------------------------------------------------------------------


def test_rerun_makes_an_identical_run(home):
    succeed("rerun", "1")
    again, first = record(12), record(1)
    assert again["status"] == "complete"
    assert again["rerun_of"] == 1
    for name in ("command", "params", "labels", "description", "outputs"):
        assert again[name] == first[name]
    assert again["code"]["tree"] == first["code"]["tree"]
    assert [mount["source"] for mount in again["mounts"]] == ["uploads/texts@1/jokes.txt"]
    assert outputs(home, 12) == outputs(home, 1)
    # What is new and what is of 0.1.0 are compared and mounted alike.
    succeed(
        "run", "-m", "runs/12/counts.json", "-m", "runs/1/counts.json:old.json", "cmp counts.json old.json"
    )


def test_rerun_builds_an_environment_of_the_versions_it_had(home, tmp_path, monkeypatch):
    make_wheel(tmp_path / "wheels", "tiny-colours", "1.2")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    succeed("rerun", "7")
    assert record(12)["environment"]["packages"]["tiny-colours"] == "1.2"
    assert succeed("logs", "12") == succeed("logs", "7") == "1.2\n"


def test_rerun_finds_the_local_file_that_was_kept(home):
    succeed("rerun", "8")
    assert succeed("logs", "12") == "a file of nobody's project\n"


def test_recover_saves_what_the_interrupted_run_made(home):
    assert not (home.run_folder(6) / "outputs").exists()
    succeed("recover", "6")
    assert outputs(home, 6) == {"found.txt": "found before the end\n"}
    assert record(6)["outputs"]["recovered"] is True
    assert not (home.run_folder(6) / "work").exists()
    succeed("verify", "6")


def test_archive_label_link_and_rm_work_on_it(home):
    succeed("unarchive", "8")
    assert record(8)["archived_at"] is None
    succeed("label", "2", "read")
    assert record(2)["labels"] == ["read"]
    succeed("unlink", "best")
    assert conjure("ls", "best").returncode != 0
    refused = conjure("rm", "runs/1")
    assert refused.returncode != 0
    assert "2" in refused.stderr
    succeed("rm", "runs/3")
    assert outputs(home, 3) == {}


# ---- language models ---------------------------------------------------------------------------------------


def test_report_shows_and_renders_what_the_model_learned(home, tmp_path):
    report = json.loads(succeed("report", "4", "--json"))
    shown = succeed("report", "4", "--output", str(tmp_path / "page.html"))
    assert report["title"] in shown
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert report["verdict"]["headline"] in page


@pytest.mark.parametrize("name", ["runs/4", "best", "uploads/tiny", "runs/5"])
def test_generate_writes_with_a_model_of_it(home, name):
    options = ["My dog", "--max-new-tokens", "5", "--seed", "3", "--json"]
    one, two = (succeed("generate", "--model", name, *options) for _ in range(2))
    assert one == two
    assert json.loads(one)


def test_a_finetune_goes_on_where_it_was_interrupted(home):
    progress = home.run_folder(5) / "outputs" / "output.training" / "progress.json"
    step = json.loads(progress.read_text())["progress"]["step"]
    assert 0 < step < 400
    succeed("finetune", "--resume", "runs/5")
    resumed = record(12)
    assert resumed["status"] == "complete"
    steps = [
        int(row["step"]) for row in csv.DictReader(succeed("metrics", "12", "loss", "--csv").splitlines())
    ]
    assert steps == list(range(step + 1, 401))
    assert json.loads(succeed("report", "12", "--json"))["verdict"]


def test_python_reads_it(home):
    client = public.Client()
    run = client.get(1)
    assert (run.status, run.exit_code) == ("complete", 0)
    assert [point.value for point in run.metrics("share")] == [1 / 3, 2 / 3, 1.0]
    assert public.load(home.run_folder(4) / "outputs" / "output").config.n_layer == 2
    options = {"params": {"n": 1}, "labels": ["x"], "description": "d", "env": {"A": "b"}, "timeout": "1m"}
    new = client.run("echo $A :n:", mounts={"runs/1/counts.json": "c.json"}, output=["*.txt"], **options)
    assert list(new.wait(check=True).logs()) == ["b 1"]


# ---- the database ------------------------------------------------------------------------------------------


def test_the_schema_only_grows_and_opening_it_again_changes_nothing(home):
    def schema(path):
        connection = sqlite3.connect(path)
        try:
            steps = connection.execute("SELECT number, name, taken_at FROM schema_migrations ORDER BY number")
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            columns = {
                (table, row[1])
                for (table,) in tables
                for row in connection.execute(f"PRAGMA table_info({table})")
            }
            return steps.fetchall(), columns
        finally:
            connection.close()

    old_steps, old_columns = schema(home.database)
    assert [step[0] for step in old_steps] == [1, 2, 3]
    with SqliteDatabase.open(home) as store:
        records = store.select()
    steps, columns = schema(home.database)
    assert steps[:3] == old_steps
    # A supervisor of 0.1.0 that is still running writes these.
    assert columns >= old_columns
    with SqliteDatabase.open(home) as store:
        assert store.select() == records
    assert schema(home.database) == (steps, columns)


def test_a_home_may_lie_somewhere_else_than_where_it_was_made(home, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    shutil.move(home.root, moved)
    monkeypatch.setenv("CONJURE_HOME", str(moved))
    succeed("rerun", "2")
    assert outputs(Home(moved), 12) == outputs(Home(moved), 2)
    assert all("/tmp/conjure-fixture/home" not in text for text in succeed("info", "12"))
