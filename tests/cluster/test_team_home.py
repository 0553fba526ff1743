"""A home whose records are in PostgreSQL: every command, and what becomes of runs when things go away."""

import json
import re

import psycopg
import pytest

from conjure.runs.database.base import SupersededError
from conjure.runs.database.open_database import open_database
from conjure.runs.database.postgres_migrations import NEWEST
from conjure.runs.host.capacity import Capacity
from conjure.runs.lifecycle import abandoned_runs
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.status import RunStatus
from support.casting import MADE_AFTER_GO, add_run, ending_runs, outputs, release, wait_until
from support.memory_executor import ELSEWHERE
from support.old_conjure import as_old_conjure, unpack_code
from support.terminal import conjure

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def address(postgres):
    return postgres.new_database()


def succeed(*arguments):
    done = conjure(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def shared(home, address):
    """A home that shares a database, and had a run before."""
    succeed("run", "--label", "early", "echo one > one.txt")
    assert f"1 run is now in {address}" in succeed("team", "init", "--database", address)
    return home


def test_every_command_works_on_one_numbered_history(shared, address):
    succeed("run", "-m", "runs/1/one.txt", "cat one.txt; echo loss > loss.txt")
    listed = json.loads(succeed("ps", "-a", "--json"))
    assert [(run["number"], run["status"]) for run in listed] == [(2, "complete"), (1, "complete")]
    assert succeed("logs", "2") == "one\n"
    succeed("link", "best", "runs/2")
    assert "loss.txt" in succeed("ls", "best")
    succeed("label", "2", "late")
    succeed("archive", "1")
    assert json.loads(succeed("info", "1", "--json"))["labels"] == ["early"]
    assert conjure("rm", "runs/1").returncode != 0  # run 2 was given something of it
    for arguments in (["verify", "2"], ["lineage", "2"], ["diff", "1", "2"], ["prune", "-f"], ["stats", "2"]):
        succeed(*arguments)
    succeed("rerun", "2")
    states = {each["name"]: each["state"] for each in json.loads(succeed("doctor", "--json"))}
    assert states["database"] == "ok"
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_runs_wait_in_its_queue_and_are_stopped(shared):
    with ending_runs(shared) as client:
        cores = Capacity.of_this_machine().cpus
        first = client.run(MADE_AFTER_GO, cpus=cores)
        waiting = client.run("echo late > late.txt", cpus=1)
        stopped = client.run("true", cpus=1)
        stopped.stop()
        assert stopped.status is RunStatus.STOPPED
        wait_until(lambda: list(first.logs()), "the first one's start")
        release(first)
        waiting.wait(check=True)
        assert outputs(waiting) == {"late.txt": "late\n"}


def test_the_records_come_back_when_it_leaves(shared, address):
    before = json.loads(succeed("info", "1", "--json"))
    assert json.loads(succeed("team", "status", "--json"))["database"] == address
    succeed("team", "leave")
    assert json.loads(succeed("info", "1", "--json")) == before
    assert conjure("team", "status").returncode == 1
    assert "this home is not shared" in conjure("team", "status").stderr
    succeed("run", "true")


def test_an_upgrade_of_what_is_new_changes_nothing(shared):
    assert succeed("team", "upgrade") == f"Schema {NEWEST}\n"


def test_a_newer_database_is_refused_by_every_command(shared, address):
    with psycopg.connect(address) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (%s, 'later')", (NEWEST + 1,))
    for command in (["ps"], ["team", "upgrade"], ["team", "status"]):
        refused = conjure(*command)
        assert refused.returncode == 1
        assert (
            f"has schema {NEWEST + 1}, and this version of conjure supports up to {NEWEST}" in refused.stderr
        )


def test_a_home_that_shares_its_folder_need_not_join(shared, address):
    assert "This home already uses this database: 1 run" in succeed("team", "join", "--database", address)


def test_what_doctor_says_of_a_shared_database(shared, address, postgres):
    found = {each["name"]: each for each in json.loads(succeed("doctor", "--json"))}
    assert address in found["database"]["text"]
    postgres.stop()
    try:
        told = conjure("doctor").stdout
    finally:
        postgres.start()
    assert "the team's database cannot be reached" in told
    assert "reindex" not in told


def test_a_database_belongs_to_one_home(shared, address, tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "another"))
    refused = conjure("team", "init", "--database", address)
    assert refused.returncode == 1
    assert "the database contains 1 run of another home" in refused.stderr
    assert not (tmp_path / "another" / "team.json").exists()


def test_a_home_with_an_active_run_stays_where_it_is(home, address):
    with ending_runs(home) as client:
        run = client.run(MADE_AFTER_GO)
        refused = conjure("team", "init", "--database", address)
        assert "1 run has not ended: 1" in refused.stderr
        wait_until(lambda: list(run.logs()), "its start")
        release(run)
        run.wait(check=True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:///x", "is not an address of PostgreSQL"),
        ("postgresql://[::1/db", "is not an address of PostgreSQL"),
        ("postgresql://me:hunter2@host/db", "has a password in it"),
        ("postgresql://me@host/db?password=hunter2", "has a password in it"),
        ("postgresql://me@host/db?sslkey=/k&sslpassword=hunter2", "has a password in it"),
        ("postgresql://me@host/db?oauth_client_secret=hunter2", "has a password in it"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_telling_its_password(home, address, said):
    refused = conjure("team", "init", "--database", address)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "hunter2" not in refused.stderr


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (("/test_", "/nobodys_"), "the team's database does not exist: database \"nobodys_"),
        ((r"\?", "&sslmode=require?"), "the team's database does not exist: database \"test_"),
        ((r"//\w+@", "//ghost@"), 'the team\'s database refuses this login: role "ghost" does not exist'),
        (
            (r"\?host=/", "?host=/nowhere/"),
            "the team's database cannot be reached: connection to server on socket",
        ),
    ],
)
def test_a_database_that_is_not_there_is_one_sentence(home, address, part, said):
    refused = conjure("team", "init", "--database", re.sub(*part, address))
    assert refused.returncode == 1
    error, hint = refused.stderr.splitlines()
    assert error.startswith(f"error: {said}")
    assert hint.startswith("  hint: ")


def test_a_role_that_may_create_no_tables_is_told_so(home, address, postgres):
    postgres.execute("CREATE ROLE grace LOGIN")
    refused = conjure("team", "init", "--database", address.replace(f"//{postgres.user}@", "//grace@"))
    assert refused.returncode == 1
    error, hint = refused.stderr.splitlines()
    assert error.endswith("does not have the permission for this: permission denied for schema public")
    assert "A role for each member" in hint


def test_a_member_whose_password_was_changed_is_told_so(home, address, postgres, monkeypatch):
    postgres.execute("DROP ROLE IF EXISTS locked", "CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'hunter2'")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    succeed("team", "init", "--database", address.replace(f"//{postgres.user}@", "//locked@"))
    postgres.execute("ALTER ROLE locked PASSWORD 'hunter3'")
    for command in (["ps"], ["run", "true"], ["team", "status"]):
        refused = conjure(*command)
        assert refused.returncode in (1, 125)
        assert 'refuses this login: password authentication failed for user "locked"' in refused.stderr
        assert "hunter" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 2


def test_an_older_conjure_is_refused_in_one_sentence(shared, tmp_path):
    package = unpack_code(tmp_path / "site")
    script = (
        "import conjure\n"
        "try:\n"
        "    print(conjure.Client().runs())\n"
        "except conjure.ConjureError as error:\n"
        "    print(error)"
    )
    assert "a newer conjure wrote it" in as_old_conjure(package, script)


# ---- what goes away ----------------------------------------------------------------------------------------


def test_a_run_outlives_its_database_and_ends_when_that_is_back(shared, postgres):
    with ending_runs(shared) as client:
        run = client.run(MADE_AFTER_GO)
        wait_until(lambda: list(run.logs()), "its start")
        folder = shared.run_folder(run.number)
        postgres.stop()
        try:
            assert "the team's database cannot be reached" in conjure("ps").stderr
            release(run)
            wait_until(lambda: (folder / "work" / "made.txt").exists(), "the command's end")
        finally:
            postgres.start()
        run.wait(check=True)
        assert outputs(run) == {"made.txt": "made\n"}
        assert json.loads((folder / "run.json").read_text())["status"] == "complete"


def test_a_run_of_a_machine_that_is_lost_is_closed_after_its_supervisor_has_given_up(shared, address):
    with open_database(shared) as store:
        number = add_run(store).number
        store.write_as(number, store.begin_attempt(number, ELSEWHERE))
        store.move(number, RunStatus.QUEUED)

        def age(seconds):
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("UPDATE leases SET heartbeat_at = heartbeat_at - %s", (seconds,))
            with open_store(shared) as other:
                return other.get(number).status

        assert age(0) is RunStatus.QUEUED
        assert age(60) is RunStatus.QUEUED
        assert "unreachable (last heartbeat 1m ago)" in succeed("ps")
        assert age(900) is RunStatus.INTERRUPTED
        with pytest.raises(SupersededError):  # the lost one wakes up
            store.move(number, RunStatus.BUILDING)


def test_two_machines_that_close_the_same_lost_run_do_not_meet(shared, address, monkeypatch):
    """The second one finds that it was closed after it had looked."""
    with open_database(shared) as store:
        number = add_run(store).number
        store.write_as(number, store.begin_attempt(number, ELSEWHERE))
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("UPDATE leases SET heartbeat_at = heartbeat_at - 1000")
    with open_database(shared) as first, open_database(shared) as second:
        begin = second.begin_attempt

        def after_the_first(*arguments, **options):
            abandoned_runs.mark_abandoned(first)
            return begin(*arguments, **options)

        monkeypatch.setattr(second, "begin_attempt", after_the_first)
        abandoned_runs.mark_abandoned(second)
        assert second.get(number).status is RunStatus.INTERRUPTED
