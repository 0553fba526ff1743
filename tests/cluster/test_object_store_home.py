"""Two homes that share only a database and an object store: every command, and what goes away meanwhile."""

import json
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from conjure.core.team_settings import read_team
from conjure.runs.artifacts import team_upload
from conjure.runs.artifacts.team_runs import TeamRuns, stored_database
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.database.open_database import open_database
from conjure.runs.database.postgres import PostgresDatabase
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process import all_processes, this_process
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.maintenance import team as team_module
from conjure.runs.objects.base import ObjectsError
from conjure.runs.objects.remote import open_objects
from conjure.runs.scheduling.scheduler_start import scheduler_of
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.status import RunStatus
from support.casting import UNTIL_GO, add_run, release, wait_until
from support.repositories import files_with, read_files, write_files
from support.slurm_programs import SlurmPrograms
from support.team_members import Member, make_team, running_team
from support.terminal import conjure
from support.tuning import OPTIONS, tuning_inputs


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


IN_EACH_STORE = pytest.mark.parametrize("store", ["s3", "az"], indirect=True)


@pytest.fixture
def team(project, address, store):
    with running_team(project.parent, address, store.new_address()) as members:
        yield members


@IN_EACH_STORE
def test_a_second_machine_has_every_run_and_file(project, address, store):
    check_everything_is_shared(project, address, store.new_address())


def test_a_second_machine_has_every_run_and_file_of_a_shared_disk(project, address, tmp_path):
    check_everything_is_shared(project, address, f"file://{tmp_path}/objects")


def check_everything_is_shared(project, address, objects):
    ada, bob = make_team(project.parent, address, objects, first_command="echo early > early.txt")
    assert bob.do("ls", "runs/1") == "early.txt\n"
    many = "mkdir d; for i in 1 2 3; do echo $i > d/$i; done; head -c 600000 /dev/zero > big; echo hello"
    bob.do("run", "-m", "runs/1/early.txt", f"cat early.txt; {many}")
    listed = json.loads(ada.do("ps", "-a", "--json"))
    assert [(run["number"], run["status"]) for run in listed] == [(2, "complete"), (1, "complete")]
    assert ada.do("logs", "2") == "early\nhello\n"
    assert ada.do("ls", "runs/2/d").split() == ["1", "2", "3"]
    ada.do("cp", "runs/2/d", "out")
    assert read_files(project / "out") == {"1": "1\n", "2": "2\n", "3": "3\n"}
    assert not (ada.home.fetched / "2" / "outputs" / "big").exists()  # what is not asked for stays away
    assert "unchanged" in ada.do("verify", "2")
    ada.do("rerun", "2")
    assert ada.do("logs", "3") == "early\nhello\n"
    assert json.loads(bob.do("info", "3", "--json"))["rerun_of"] == 2
    assert f"@{os.uname().nodename}" in bob.do("info", "3")
    bob.do("link", "best", "runs/3")
    assert "best -> runs/3" in ada.do("link")
    ada.do("label", "2", "theirs")
    assert json.loads(bob.do("info", "2", "--json"))["labels"] == ["theirs"]
    for member in (ada, bob):
        for arguments in ("lineage 3", "diff 2 3", "stats 2", "metrics 2", "prune -f"):
            member.do(*arguments.split())
        states = {each["name"]: each["state"] for each in json.loads(member.do("doctor", "--json"))}
        assert (states["database"], states["runs"], states["code"]) == ("ok", "ok", "ok")


def test_the_log_of_another_machine_is_followed_and_its_run_stopped(team):
    ada, bob = team
    run = ada.client.run(f"echo begun; {UNTIL_GO}; echo gone")
    followed = bob.client.runs()[0].logs(follow=True)
    assert next(followed) == "begun"
    (ada.home.run_folder(run.number) / "go").touch()
    assert list(followed) == ["gone"]
    assert bob.client.runs()[0].status is RunStatus.COMPLETE
    for word, status in (("stop", RunStatus.STOPPED), ("kill", RunStatus.KILLED)):
        run = ada.client.run(f"echo > made; {UNTIL_GO}")
        wait_until(lambda run=run: run.status is RunStatus.RUNNING, "its start")
        bob.do(word, str(run.number))
        bob.call("wait", str(run.number))
        assert run.status is status


def test_ending_a_run_of_another_machine_from_python_returns_when_it_has_ended(team):
    ada, bob = team
    for word, status in (("stop", RunStatus.STOPPED), ("kill", RunStatus.KILLED)):
        run = ada.client.run(UNTIL_GO)
        wait_until(lambda run=run: run.status is RunStatus.RUNNING, "its start")
        seen = getattr(bob.client.runs()[0], word)()
        with open_database(bob.home) as store:
            assert store.get(seen.number).status is status


def test_what_waits_on_another_machine_is_stopped_though_that_is_away(team):
    ada, bob = team
    first = ada.client.run(UNTIL_GO, cpus=Capacity.of_this_machine().cpus)
    wait_until(lambda: first.status is RunStatus.RUNNING, "its start")
    near, far = (ada.client.run("true", cpus=1) for _ in range(2))
    bob.do("stop", str(near.number))
    wait_until(lambda: not ada.home.queued_request(near.number).exists(), "its secrets to be gone")
    scheduler = scheduler_of(ada.home)
    os.kill(scheduler.pid, signal.SIGKILL)
    bob.do("kill", str(far.number))
    with open_database(bob.home) as store:
        assert [store.get(run.number).status for run in (near, far)] == [RunStatus.STOPPED, RunStatus.KILLED]
    release(first)
    first.wait(check=True)
    assert far.status is RunStatus.KILLED


def test_metrics_and_uploads_and_removal_reach_everybody(team, tmp_path):
    ada, bob = team
    write_files(tmp_path, {"data/a.txt": "a", "data/b.txt": "b", "one.txt": "1"})
    ada.do("upload", "../data")
    bob.do("upload", "../one.txt")
    assert ada.do("ls", "uploads").split() == ["data/", "one.txt"]
    report = "python -c \"import conjure; conjure.log_metric('loss', 0.5, step=3)\""
    bob.do("run", "-m", "uploads/data", "-m", "uploads/one.txt", f"cat data/a.txt one.txt; {report}")
    assert ada.do("logs", "1") == "a1"
    assert "loss,3,0.5" in ada.do("metrics", "1", "--csv")
    write_files(tmp_path, {"data/a.txt": "other"})
    bob.do("upload", "../data")
    assert "version 2" in ada.call("upload", "../data").stderr  # the same, whoever gave it
    ada.do("rm", "-f", "uploads/data@2")
    assert "does not exist" in bob.call("ls", "uploads/data@2").stderr
    bob.do("run", "echo > made.txt")
    ada.do("rm", "runs/2")
    for member in team:
        assert "were removed" in member.call("ls", "runs/2").stderr


def test_objects_that_nobody_needs_are_removed_and_come_again(team):
    ada, bob = team
    command = "seq 1000 > small.txt; head -c 500000 /dev/zero > large"
    ada.do("run", command)
    ada.do("run", "seq 1000 > small.txt")
    bob.do("rm", "runs/1")
    with bob.files() as files:
        assert files.prune() == (0, 0)  # it was used just now
        removed, size = files.prune(unused_s=0)
        assert removed > 0
        assert size > 500000
    assert "unchanged" in bob.do("verify", "2")
    bob.do("run", command)
    assert "unchanged" in ada.do("verify", "3")


def test_a_model_that_one_home_tuned_is_reported_and_tuned_on_in_another(team, tmp_path):
    ada, bob = team
    data, model = tuning_inputs(tmp_path)
    options = OPTIONS | {"epochs": 1, "split": "lines"}
    ada.client.finetune(data, model=model, **options).wait(check=True)
    assert "runs/1" in bob.do("models")
    assert json.loads(bob.do("report", "1", "--json"))["verdict"]
    bob.client.finetune(data, model="runs/1", **options).wait(check=True)
    bob.do("generate", "--save", "--model", "runs/1", "-n", "1", "--max-new-tokens", "2", "Why")
    assert ada.client.runs()[0].record.mounts[0].source == "runs/1/output"
    assert ada.client.runs()[1].record.mounts[-1].source == "runs/1/output"


def test_numbers_are_dense_and_versions_differ_whoever_asks(team, project):
    ada, bob = team
    write_files(project.parent, {f"{name}/f": name for name in "abcd"})
    running = [member.client.run("true") for _ in range(3) for member in team]
    for run in running:
        run.wait(check=True)
    assert sorted(run.number for run in running) == [1, 2, 3, 4, 5, 6]
    from concurrent.futures import ThreadPoolExecutor

    from conjure.runs.artifacts.uploads import upload

    with ThreadPoolExecutor(4) as threads:
        given = list(
            threads.map(
                lambda pair: upload(pair[0].home, project.parent / pair[1], "same").upload.version,
                zip((ada, bob, ada, bob), "abcd", strict=True),
            )
        )
    assert sorted(given) == [1, 2, 3, 4]


def test_a_store_is_not_taken_from_a_team_that_has_its_database(project, postgres, address, tmp_path):
    objects = f"file://{tmp_path}/objects"
    make_team(project.parent, address, objects, first_command="true")
    eve = Member(project.parent / "eve")
    refused = eve.call("team", "init", "--database", postgres.new_database(), "--objects", objects)
    assert refused.returncode == 1
    assert "which contains 1 run" in refused.stderr
    assert "conjure team join --database" in refused.stderr
    with psycopg.connect(address, autocommit=True) as connection:  # as a newer conjure leaves it
        connection.execute("UPDATE schema_migrations SET number = number + 1000")
    refused = eve.call("team", "init", "--database", postgres.new_database(), "--objects", objects)
    assert refused.returncode == 1
    assert "which is still there" in refused.stderr


def test_what_a_lost_attempt_left_does_not_stand_for_the_run(team, address):
    ada, bob = team
    lost = ada.client.run(f"echo old > made.txt; echo old; {UNTIL_GO}")
    wait_until(lambda: list(lost.logs()), "its start")
    lost.kill()
    bob.do("run", "echo new > made.txt; echo new")
    left = ada.home.runs / "2"  # as if that had been an attempt at this run, on a cluster
    lost.home.run_folder(lost.number).rename(left)
    (left / "run.json").unlink()
    with psycopg.connect(address) as connection:
        on_cluster = """jsonb_set(spec::jsonb, '{on}', '"gpu"')"""
        connection.execute(f"UPDATE runs SET spec = {on_cluster} WHERE number = 2")
    refused = ada.call("recover", "2")
    assert (refused.returncode, "was executed on another machine" in refused.stderr) == (1, True)
    for command, said in (("logs 2", "new\n"), ("ls runs/2", "made.txt\n"), ("verify 2", "unchanged")):
        shutil.rmtree(ada.home.fetched / "2")  # each is the first to find out
        assert said in ada.do(*command.split())
    shutil.rmtree(ada.home.fetched / "2", ignore_errors=True)
    found = {each["name"]: each["text"] for each in json.loads(ada.call("doctor", "--json").stdout)}
    assert "run files" not in found
    assert "recover" not in ada.do("prune", "-f")
    assert not left.exists()
    ada.do("cp", "runs/2/made.txt", "out")
    assert Path("out/made.txt").read_text() == "new\n"


def test_what_is_printed_is_sent_while_inputs_are_still_under_way(team, address, monkeypatch):
    ada, bob = team
    is_sent, beats = threading.Event(), []
    monkeypatch.setattr(TeamRuns, "send_inputs", lambda *_: is_sent.wait(60))
    monkeypatch.setattr(team_upload, "_PATIENCE_WITH_THREAD_S", 0.1)
    with open_database(ada.home) as store:
        number = add_run(store).number
        log = ada.home.run_folder(number) / "log.jsonl"
        log.write_text("first\n")
        uploader = RunUploader(store, number, store.begin_attempt(number, this_process(ada.home)))
        uploader.start()
        with bob.files() as files:
            wait_until(lambda: files.index.streams(number), "the log")
            wait_until(lambda: not unexported(address), "what the thread does before it sleeps")
            log.write_text("first\nlast\n")
            uploader.finish(0.5, lambda: beats.append("beat"))
            assert files.index.streams(number).log_bytes == len("first\nlast\n")
        assert beats
        is_sent.set()


# ---- what goes away ----------------------------------------------------------------------------------------


@IN_EACH_STORE
def test_a_run_goes_on_while_the_store_is_away(team, store):
    ada, bob = team
    run = ada.client.run(f"echo begun; {UNTIL_GO}; echo gone; echo made > made.txt")
    folder = ada.home.run_folder(run.number)
    assert next(bob.client.runs()[0].logs(follow=True)) == "begun"
    store.stop()
    try:
        (folder / "go").touch()
        wait_until(lambda: '"gone' in (folder / "log.jsonl").read_text(), "the command's end")
        assert run.status is not RunStatus.COMPLETE
    finally:
        store.start()
    run.wait(check=True)
    assert bob.do("logs", "1") == "begun\ngone\n"
    bob.do("cp", "runs/1", "out")
    assert Path("out/made.txt").read_text() == "made\n"


@IN_EACH_STORE
def test_a_supervisor_that_is_killed_in_the_middle_of_an_upload_commits_nothing(team, store):
    ada, bob = team
    ada.do("run", "echo first > kept.txt")
    run = ada.client.run(f"{UNTIL_GO}; echo first > kept.txt; head -c 3000000 /dev/urandom > big")
    wait_until(lambda: run.status is RunStatus.RUNNING, "its start")
    folder = ada.home.run_folder(run.number)
    store.pause()
    try:
        (folder / "go").touch()
        wait_until(lambda: (folder / "manifest.json").exists(), "the saving")
        os.kill(run.record.owner.pid, signal.SIGKILL)
        wait_until(lambda: run.status is RunStatus.INTERRUPTED, "the interruption")
    finally:
        store.go_on()
    assert "saved no outputs" in bob.call("ls", "runs/2").stderr
    assert "unchanged" in bob.do("verify", "1")  # what it shares with the lost one is there
    ada.do("recover", "2")
    assert sorted(bob.do("ls", "runs/2").split()) == ["big", "kept.txt"]
    assert "unchanged" in bob.do("verify", "2")


@IN_EACH_STORE
def test_the_records_are_rebuilt_from_the_store(team, postgres, address, project):
    ada, bob = team
    write_files(project.parent, {"data/a.txt": "a"})
    ada.do("upload", "../data")
    ada.do("run", "-m", "uploads/data", "echo printed; cat data/a.txt > made.txt")
    bob.do("label", "1", "good")
    bob.do("link", "best", "runs/1")
    with open_database(ada.home) as store:
        before = store.get(1)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    objects = read_team(ada.home).objects
    eve = Member(project.parent / "eve")
    assert "1 run is now in" in eve.do("team", "init", "--database", address, "--objects", objects)
    with open_database(eve.home) as store:
        assert store.get(1) == before
    assert eve.do("logs", "1") == "printed\n"
    assert "unchanged" in eve.do("verify", "best")
    assert eve.do("ls", "uploads").split() == ["data/"]
    assert eve.client.run("true").wait().number == 2


def test_members_go_on_with_the_database_that_was_rebuilt(project, postgres, address, tmp_path):
    ada, bob = make_team(project.parent, address, f"file://{tmp_path}/objects")
    ada.do("run", "echo theirs")
    bob.do("run", "echo own > own.txt")
    assert bob.do("logs", "1") == "theirs\n"
    other, rebuilt = postgres.new_database(), postgres.new_database()
    make_team(tmp_path / "others", other, f"file://{tmp_path}/elsewhere")
    assert "already shares a database" in bob.call("team", "join", "--database", other).stderr
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    member = read_team(bob.home).member
    eve = Member(project.parent / "eve")
    eve.do("team", "init", "--database", rebuilt, "--objects", f"file://{tmp_path}/objects")
    assert f"Joined as {member}: 2 runs in" in bob.do("team", "join", "--database", rebuilt)
    assert (bob.do("logs", "1"), bob.do("ls", "runs/2")) == ("theirs\n", "own.txt\n")
    assert bob.client.run("true").wait(check=True).number == 3
    assert eve.client.runs()[0].number == 3


def test_a_damaged_object_is_found_and_not_used(project, address, tmp_path):
    ada, bob = make_team(project.parent, address, f"file://{tmp_path}/objects")
    ada.do("run", "head -c 300000 /dev/zero > large; echo small > small.txt")
    for folder in ("blobs", "packs"):
        for path in (tmp_path / "objects" / folder).iterdir():
            content = bytearray(path.read_bytes())
            content[0] ^= 1
            path.write_bytes(content)
    verified = bob.call("verify", "1")
    assert verified.returncode == 1
    assert "large was changed" in verified.stdout + verified.stderr
    assert "is damaged" in bob.call("cp", "runs/1", "out").stderr
    assert not Path("out/large").exists()


@pytest.fixture
def submitting(team, store, tmp_path, monkeypatch):
    """A run that is being submitted to a cluster, and its files do not get on."""
    ada, bob = team
    folder = tmp_path / "slurm"
    folder.mkdir()
    SlurmPrograms(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for member in team:
        member.home.config_file.write_text('[executors.gpu]\nkind = "slurm"\n')
    Path("code.txt").write_text("code\n")
    store.pause()
    command = ada.start("run", "-b", "--on", "gpu", "true")
    try:
        with open_database(bob.home) as database:
            wait_until(lambda: database.numbers() and database.get(1).code, "the run and its code")
        yield command
    finally:
        store.go_on()


def test_a_submission_to_a_cluster_that_is_cut_off_is_closed(team, submitting, store):
    submitting.send_signal(signal.SIGKILL)
    submitting.communicate()
    store.go_on()
    (run,) = json.loads(team[0].do("ps", "-a", "--json"))
    assert (run["status"], run["end_reason"]) == ("interrupted", "supervisor_died")


def test_a_submission_is_ended_by_another_machine(team, submitting, store):
    team[1].do("stop", "1")
    assert json.loads(team[1].do("ps", "-a", "--json"))[0]["status"] == "stopped"
    store.go_on()
    _, err = submitting.communicate()
    assert (submitting.returncode, "internal error" in err) == (0, False)


# ---- names, copies, secrets --------------------------------------------------------------------------------


def test_runs_of_the_local_home_are_copied_into_one_with_a_name(team, address, project, monkeypatch):
    ada, _ = team
    write_files(project.parent, {"data/a.txt": "a"})
    ada.do("run", "true")
    eve = Member(project.parent / "eve")
    eve.do("upload", "../data")
    eve.do("run", "--label", "mine", "-m", "uploads/data", "echo one > one.txt; cat data/a.txt")
    eve.do("run", "-m", "runs/1/one.txt", "cat one.txt")
    assert "there is no home 'lab'" in eve.call("--home", "lab", "ps").stderr
    eve.do("--home", "lab", "team", "join", "--database", address)
    assert "Joined as" in eve.do("--home", "lab", "team", "join", "--database", address)  # changes nothing
    assert "run 1 -> run 2" in eve.do("--home", "lab", "team", "push", "2")
    assert [run["number"] for run in json.loads(eve.do("--home", "lab", "ps", "-a", "--json"))] == [3, 2, 1]
    assert eve.do("--home=lab", "team", "push").count("already there") == 2
    copy = json.loads(ada.do("info", "3", "--json"))
    assert copy["mounts"][0]["source"] == "runs/2/one.txt"
    assert any(label.endswith("#2") for label in copy["labels"])
    assert ada.do("logs", "2") == "a"
    with psycopg.connect(address, autocommit=True) as connection:  # as where the copying was cut off
        connection.execute("DELETE FROM run_streams WHERE run = 3")
    eve.do("--home=lab", "team", "push")
    assert ada.do("logs", "3") == "one\n"
    ada.do("rerun", "3")
    assert [run["number"] for run in json.loads(eve.do("--home", "local", "ps", "-a", "--json"))] == [2, 1]


@IN_EACH_STORE
def test_keys_are_in_no_record_no_log_and_no_process_list(team, store, address):
    ada, bob = team
    run = ada.client.run(f"echo begun; {UNTIL_GO}")
    wait_until(lambda: run.status is RunStatus.RUNNING, "its start")
    assert not [process for process in all_processes() if store.secret.encode() in command_line(process.pid)]
    (ada.home.run_folder(run.number) / "go").touch()
    run.wait(check=True)
    bob.do("ps")
    for home in (ada.home, bob.home):
        assert files_with(home.root, store.secret) == []
    with psycopg.connect(address) as connection:
        for table in ("runs", "team", "objects", "uploads"):
            assert store.secret not in str(connection.execute(f"SELECT * FROM {table}").fetchall())


def test_who_leaves_keeps_its_own_runs_and_numbers_go_on(project, address, tmp_path):
    ada, bob = make_team(project.parent, address, f"file://{tmp_path}/objects")
    write_files(project.parent, {"data/a.txt": "a"})
    bob.do("upload", "../data")
    bob.do("run", "echo theirs > made.txt")
    ada.do("run", "-m", "runs/1/made.txt", "echo printed; cat made.txt > own.txt")
    bob.do("run", "echo theirs, too")
    assert ada.do("logs", "3") == "theirs, too\n"
    assert ada.do("ls", "uploads").split() == ["data/"]
    assert ada.do("team", "leave") == "The home has its own database file again, with 1 run\n"
    assert [run["number"] for run in json.loads(ada.do("ps", "-a", "--json"))] == [2]
    assert (ada.do("logs", "2"), ada.do("ls", "uploads")) == ("printed\n", "")
    assert "unchanged" in ada.do("verify", "2")
    assert ada.client.run("echo own").wait(check=True).number == 3  # which was another's in the team
    assert ada.do("logs", "3") == "own\n"
    bob.do("cp", "runs/2/own.txt", "out")
    assert Path("out/own.txt").read_text() == "theirs\n"


def test_a_members_role_in_the_database_decides_what_they_may_do(project, postgres, tmp_path):
    members = [f"CREATE ROLE {name} LOGIN IN ROLE acme" for name in ("ada", "bob")]
    roles = [f"ALTER ROLE {name} IN DATABASE roles SET role = 'acme'" for name in ("ada", "bob")]
    postgres.execute("CREATE ROLE acme NOLOGIN", "CREATE DATABASE roles OWNER acme", *members, *roles)
    postgres.execute("CREATE ROLE eve LOGIN", "CREATE ROLE mallory LOGIN")
    ada, bob, eve, mallory = (Member(project.parent / name) for name in ("ada", "bob", "eve", "mallory"))

    def address(name):
        return postgres.address("roles").replace(f"//{postgres.user}@", f"//{name}@")

    ada.do("team", "init", "--database", address("ada"), "--objects", f"file://{tmp_path}/objects")
    with psycopg.connect(address("ada"), autocommit=True) as connection:
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO eve")
        connection.execute("REVOKE ALL ON requests FROM eve")
    bob.do("team", "join", "--database", address("bob"))
    bob.do("run", "echo printed; echo made > made.txt")
    ada.do("label", "1", "of another")
    eve.do("team", "join", "--database", address("eve"))
    assert "echo printed" in eve.do("ps", "-a")
    assert (eve.do("logs", "1"), eve.do("ls", "runs/1")) == ("printed\n", "made.txt\n")
    eve.do("cp", "runs/1", "out")
    assert Path("out/made.txt").read_text() == "made\n"
    lost = Owner("lost@host/1", "boot", 1, "1", "host")
    with PostgresDatabase.open(bob.home, address("bob")) as store:
        number = add_run(store).number
        store.begin_attempt(number, lost)
    with psycopg.connect(address("bob"), autocommit=True) as connection:
        connection.execute("UPDATE leases SET heartbeat_at = heartbeat_at - 1000 WHERE run = %s", (number,))
    assert "interrupted" in eve.do("ps", "-a")  # though she may not write that down
    for command in (("run", "true"), ("rm", "runs/1")):
        refused = eve.call(*command)
        assert refused.returncode != 0
        assert "does not have the permission for this: permission denied" in refused.stderr
    with psycopg.connect(address("eve")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM requests")
    refused = mallory.call("team", "join", "--database", address("mallory"))
    assert "does not have the permission for this" in refused.stderr
    assert json.loads(ada.do("info", "1", "--json"))["labels"] == ["of another"]


def test_a_login_without_its_password_is_one_sentence(project, postgres):
    postgres.execute("CREATE ROLE locked LOGIN PASSWORD 'hunter2'")
    address = postgres.address().replace(f"//{postgres.user}@", "//locked@")
    refused = conjure("team", "join", "--database", address)
    assert refused.returncode == 1
    assert "the team's database refuses this login: " in refused.stderr
    assert "~/.pgpass" in refused.stderr


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ("ftp://x/y", "is not an address of an object store"),
        ("s3://key:hunter2@bucket/x", "has a key in it"),
        ("s3://bucket/x?secret=hunter2", "cannot have the parameter 'secret'"),
        ("file://host/x", "names a host"),
        ("s3:///x", "names no bucket"),
        ("s3://b/x?endpoint=http://key:hunter2@host", "has a password in its endpoint"),
        ("s3://b/x?endpoint=localhost:80", "has an endpoint that is not an address"),
        ("s3://b/x?endpoint=http://host:99999", "has an endpoint that is not an address"),
        ("s3://b/x?endpoint=http://a b", "has an endpoint that is not an address"),
        ("s3://b/x?endpoint=http://[::1", "has an endpoint that is not an address"),
        ("s3://a b/x", "'a b' cannot be the name of a bucket"),
        ("s3://[::1/x", "is not an address of an object store"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_telling_its_key(project, address, objects, said):
    refused = conjure("team", "init", "--database", address, "--objects", objects)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "hunter2" not in refused.stderr


@IN_EACH_STORE
def test_a_store_that_refuses_or_is_not_there_is_one_sentence(project, address, store, monkeypatch):
    for name, value in store.wrong_variables().items():
        monkeypatch.setenv(name, value)
    objects = store.new_address()
    refused = conjure("team", "init", "--database", address, "--objects", objects)
    assert refused.returncode == 1
    assert "refuses these credentials" in refused.stderr
    assert value not in refused.stderr  # the secret one, which is the last
    nowhere = re.sub(r":\d+", ":1", objects)
    refused = conjure("team", "init", "--database", address, "--objects", nowhere)
    assert f"{nowhere} cannot be reached" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_store_with_runs_of_others_is_refused_before_anything_is_written(project, postgres, address, store):
    objects = store.new_address()
    make_team(project.parent, address, objects, first_command="true")
    eve, mine = Member(project.parent / "eve"), postgres.new_database()
    eve.do("run", "true")
    with psycopg.connect(address) as connection:  # the first team's database is lost
        connection.execute("DROP SCHEMA public CASCADE")
    refused = eve.call("team", "init", "--database", mine, "--objects", objects)
    assert refused.returncode == 1
    assert "contains the runs of another home" in refused.stderr
    with psycopg.connect(mine) as connection:
        assert connection.execute("SELECT to_regclass('public.runs')").fetchone() == (None,)
    assert stored_database(open_objects(objects)) == address


def test_a_database_with_as_many_runs_of_another_home_is_left_as_it_is(project, address, store):
    ada, _ = make_team(project.parent, address, store.new_address(), first_command="echo of ada")
    eve = Member(project.parent / "eve")
    for _ in range(2):
        eve.do("run", "echo of eve")
    for objects in (["--objects", store.new_address()], []):
        refused = eve.call("team", "init", "--database", address, *objects)
        assert refused.returncode == 1
        assert "the database contains 1 run of another home" in refused.stderr
    (listed,) = json.loads(ada.do("ps", "-a", "--json"))
    assert "of ada" in str(listed["command"])
    assert ada.do("logs", "1") == "of ada\n"


def test_the_uploads_of_a_home_without_runs_are_shared(project, postgres, address, store):
    ada, bob, eve = (Member(project.parent / name) for name in ("ada", "bob", "eve"))
    write_files(project.parent, {"data/a.txt": "of ada", "other/a.txt": "of eve"})
    objects = store.new_address()
    ada.do("upload", "../data")
    ada.do("team", "init", "--database", address, "--objects", objects)
    bob.do("team", "join", "--database", address)
    bob.do("cp", "uploads/data/a.txt", "out")
    assert read_files(project / "out") == {"a.txt": "of ada"}
    eve.do("upload", "-n", "data", "../other")
    refused = eve.call("team", "join", "--database", address)
    assert (refused.returncode, "has uploads, whose names and versions" in refused.stderr) == (1, True)
    with psycopg.connect(address) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
    refused = eve.call("team", "init", "--database", postgres.new_database(), "--objects", objects)
    assert (refused.returncode, "contains the uploads of another home" in refused.stderr) == (1, True)


def test_a_beginning_that_was_interrupted_can_be_repeated(project, address, store, monkeypatch):
    ada, objects = Member(project.parent / "ada"), store.new_address()
    for number in (1, 2):
        ada.do("run", f"echo {number} > made.txt; echo {number}")
    send = team_module.send_run

    def fail_later(home, files, record):
        if record.number == 2:
            raise ObjectsError("the store went away")
        return send(home, files, record)

    monkeypatch.setattr(team_module, "send_run", fail_later)
    with pytest.raises(ObjectsError):
        team_module.init(ada.home, address, objects)
    ada.do("team", "init", "--database", address, "--objects", objects)
    bob = Member(project.parent / "bob")
    bob.do("team", "join", "--database", address)
    assert [bob.do("logs", number) for number in "12"] == ["1\n", "2\n"]
    assert bob.do("ls", "runs/2") == "made.txt\n"


def test_a_lost_database_is_rebuilt_with_how_metrics_stand(project, postgres, address, store):
    objects = store.new_address()
    ada, bob = make_team(project.parent, address, objects)
    reporting = "from conjure import log_metric; [log_metric('loss', value) for value in (0.5, 0.25)]"
    ada.do("run", "--", sys.executable, "-c", reporting)
    before = json.loads(bob.do("info", "1", "--json"))
    with psycopg.connect(address) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
    bob.do("--home", "restored", "team", "init", "--database", postgres.new_database(), "--objects", objects)
    after = json.loads(bob.do("--home", "restored", "info", "1", "--json"))
    assert after["metrics"]["loss"]["last_value"] == 0.25
    assert after == before


def test_a_new_members_home_has_no_faults(project, address, store):
    ada, bob = make_team(project.parent, address, store.new_address())
    Path("code.txt").write_text("code\n")
    ada.do("run", "cat code.txt")
    for member in (ada, bob):
        states = {each["name"]: each["state"] for each in json.loads(member.do("doctor", "--json"))}
        assert states["code"] == "ok"


def test_a_restored_backup_gets_what_was_made_since(project, address, store):
    ada, bob = make_team(project.parent, address, store.new_address(), first_command="true")
    tables = ("runs", "uploads", "objects")
    with psycopg.connect(address) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE backup_{table} AS TABLE {table}")
    Path("data.txt").write_text("mine\n")
    ada.do("upload", "data.txt")
    with psycopg.connect(address) as connection:
        for table in tables:
            connection.execute(f"TRUNCATE {table} CASCADE")
            connection.execute(f"INSERT INTO {table} SELECT * FROM backup_{table}")
            connection.execute(f"DROP TABLE backup_{table}")
    bob.do("doctor", "--reindex")
    assert "mine\n" in bob.do("run", "-m", "uploads/data.txt:in.txt", "cat in.txt")


@pytest.mark.parametrize("looks_first", [False, True])
def test_a_run_that_went_on_at_the_backup_is_restored_as_it_ended(team, postgres, address, looks_first):
    ada, bob = team
    run = ada.client.run(f"echo begun; {UNTIL_GO}; echo gone; echo made > made.txt")
    wait_until(lambda: bob.client.runs()[0].status is RunStatus.RUNNING, "its start")
    dump = postgres.dump(address)
    release(run)
    run.wait(check=True)
    wait_until(lambda: not unexported(address), "its record in the store")
    postgres.restore(address, dump)
    with psycopg.connect(address, autocommit=True) as connection:  # as after the minutes that it would take
        connection.execute("UPDATE leases SET heartbeat_at = heartbeat_at - 10000")
    if looks_first:
        with open_store(bob.home) as store:
            assert store.get(run.number).status is RunStatus.INTERRUPTED
    assert "records of 1 run" in bob.call("doctor", "--reindex").stderr
    assert bob.client.runs()[0].status is RunStatus.COMPLETE
    assert bob.do("ls", "runs/1") == "made.txt\n"
    assert bob.do("logs", "1") == "begun\ngone\n"


def test_what_was_pruned_after_the_backup_is_sent_again(team, postgres, address):
    ada, bob = team
    command = "seq 1000 > small.txt; head -c 500000 /dev/zero > large"
    ada.do("run", command)
    ada.do("run", "echo kept > kept.txt")
    dump = postgres.dump(address)
    ada.do("rm", "-f", "runs/1")
    ada.do("ps")
    wait_until(lambda: not unexported(address), "its record in the store")
    with bob.files() as files:
        assert files.prune(unused_s=0)[0] > 0
    postgres.restore(address, dump)
    stored = json.loads(bob.do("team", "status", "--json"))["stored_bytes"]
    bob.do("doctor", "--reindex")
    assert json.loads(bob.do("team", "status", "--json"))["stored_bytes"] < stored - 500000
    assert "were removed" in bob.call("ls", "runs/1").stderr
    bob.do("run", command)
    assert "unchanged" in ada.do("verify", "2")
    assert "unchanged" in ada.do("verify", "3")


def test_a_backup_has_no_secrets_of_active_runs(team, postgres, address):
    with open_database(team[0].home) as store:
        number = add_run(store, on="gpu").number
        store.set_request(number, '{"API_KEY": "hunter2"}')
    postgres.restore(address, postgres.dump(address))
    with open_database(team[0].home) as store:
        assert store.get(number).status is RunStatus.REQUESTED
        assert store.request(number) is None


def unexported(address):
    with psycopg.connect(address) as connection:
        return connection.execute("SELECT run FROM unexported").fetchall()
