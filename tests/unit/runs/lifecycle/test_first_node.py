"""A job on a node of a cluster: when it has something to do, and what it leaves of earlier runs there."""

import sys
import time
from pathlib import Path

import pytest

from conjure.core.team_settings import TeamSettings
from conjure.core.trees import remove_tree
from conjure.errors import BuildError
from conjure.runs.code.git import own_git
from conjure.runs.code.snapshot import snapshot
from conjure.runs.database.base import STOP
from conjure.runs.database.open_database import open_database, share
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.executors.cluster import JOB_VARIABLE
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle import first_node
from conjure.runs.lifecycle.first_node import find_out, main_on_first_node
from conjure.runs.lifecycle.submission import request_of_this_process
from conjure.runs.scheduling.scheduler_start import close_queued
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import OutputFacts
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run
from support.repositories import read_files, write_files

QUEUE = Owner.queue_of_executor("gpu")
ELSEWHERE = Owner("elsewhere", "boot", 2, "2")
DIGEST = "0" * 64


@pytest.fixture
def supervised(monkeypatch):
    """The runs that jobs here come to supervise, in place of their supervisors."""
    begun = []

    def note(lock, _become):
        begun.append(lock.descriptor)
        lock.release()

    monkeypatch.setattr(first_node, "supervise_below", note)
    return begun


def hand_over(store, **spec):
    """A run of a laptop's that waits for the cluster: here there is only its row."""
    asked = RunSpec(command=("true",), folder=Path("/code"), on="gpu", **spec)
    number = store.create_run(asked, ELSEWHERE, lambda _: None).number
    store.set_request(number, request_of_this_process(store.home, asked, 0.0, "gpu").to_json())
    store.enqueue(number, QUEUE)
    return number


def end_here(store, number, owner, manifest=DIGEST):
    """Have a run be carried out by somebody, to its end."""
    store.begin_attempt(number, owner)
    for phase in (RunStatus.BUILDING, RunStatus.MOUNTING, RunStatus.RUNNING, RunStatus.SAVING):
        store.move(number, phase)
    store.set_facts(number, outputs=OutputFacts(1, 1, manifest=manifest))
    store.end_run(number, Ending(EndReason.COMPLETED, 0))


def give_folder(home, number, **files):
    write_files(home.run_folder(number), {"log.jsonl": "", **files})


def test_a_job_takes_the_run_that_it_was_handed_over_for(member, shared_store, supervised):
    number = hand_over(shared_store)
    write_files(member.fetched / str(number), {"log.jsonl": "of an attempt on another node"})
    main_on_first_node(member, number, 1)
    assert len(supervised) == 1
    assert not member.is_elsewhere(number)
    assert RunFolder.of(member, number).log.read_text() == ""


@pytest.mark.parametrize("meanwhile", ["ended", "another job", "not this attempt", "not handed over"])
def test_a_job_that_comes_too_late_does_nothing(member, shared_store, supervised, meanwhile):
    number = hand_over(shared_store)
    attempt = 1
    if meanwhile == "ended":
        shared_store.request_end(number, STOP)
        close_queued(shared_store, number, Ending(EndReason.STOP_REQUESTED))
    elif meanwhile == "another job":
        shared_store.begin_attempt(number, ELSEWHERE)
    elif meanwhile == "not this attempt":
        attempt = 2
    else:
        shared_store.set_facts(number, owner=Owner.of_executor("gpu"))
    main_on_first_node(member, number, attempt)
    assert supervised == []
    assert not member.run_folder(number).exists()


def test_a_supervisor_has_what_its_node_has_and_counts_from_when_the_run_was_asked_for(
    member, shared_store, monkeypatch
):
    given = []
    monkeypatch.setattr(first_node, "supervise_below", lambda lock, become: (become(), lock.release()))
    monkeypatch.setattr(first_node, "become_supervisor", lambda *args: given.append(args))
    monkeypatch.setattr(SqliteDatabase, "age_s", lambda *_: 100.0)
    for name in ("OF_THE_NODE", "RAY_JOB", "SLURM_PROCID", "PYTHONBREAKPOINT", "CONJURE_RUN"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv(JOB_VARIABLE, "42")
    monkeypatch.setenv("PATH", "/bin")
    number = hand_over(shared_store)
    main_on_first_node(member, number, 1)
    ((home, supervised, _, request, attempt),) = given
    assert (home, supervised, attempt, request.job) == (member, number, 1, "42")
    assert 90.0 < time.monotonic() - request.requested < 200.0
    ours = {"OF_THE_NODE", "RAY_JOB", "SLURM_PROCID", "PYTHONBREAKPOINT", "CONJURE_RUN", JOB_VARIABLE}
    assert request.variables.keys() & ours == {"OF_THE_NODE"}
    assert request.variables["CONJURE_HOME"] == str(member.root)
    assert request.variables["PATH"] == f"{Path(sys.executable).parent}:/bin"


@pytest.mark.parametrize("is_there", [True, False])
def test_nodes_that_share_a_disk_use_the_folder_that_the_run_was_given_there(
    team, home, supervised, is_there
):
    share(home.create(), TeamSettings(str(team.database)))  # without an object store
    with open_database(home) as store:
        number = hand_over(store)
    if is_there:
        give_folder(home, number)
    main_on_first_node(home, number, 1)
    assert len(supervised) == is_there
    assert home.run_folder(number).exists() == is_there


def test_a_job_waits_for_the_attempt_before_to_let_go(member, shared_store, supervised, monkeypatch):
    number = hand_over(shared_store)
    lock, tries = RunLock.create(member.run_folder(number)), []

    def take(folder):
        if tries:
            lock.release()
        tries.append(folder)
        return RunLock.take_if_free(folder)

    monkeypatch.setattr(RunLock, "take_when_free", take)
    main_on_first_node(member, number, 1)
    assert (len(tries), len(supervised)) == (2, 1)


def test_a_job_makes_the_folder_that_its_submitter_here_has_just_removed(
    member, shared_store, supervised, monkeypatch
):
    number = hand_over(shared_store)
    give_folder(member, number)

    def take_too_late(folder):
        remove_tree(folder)
        return RunLock.take_if_free(folder)

    monkeypatch.setattr(RunLock, "take_when_free", take_too_late)
    main_on_first_node(member, number, 1)
    assert supervised != [None]
    assert RunFolder.of(member, number).log.exists()


def test_a_job_waits_no_longer_once_its_run_was_ended(member, shared_store, supervised, monkeypatch):
    number = hand_over(shared_store)
    lock = RunLock.create(member.run_folder(number))

    def take(_):
        shared_store.request_end(number, STOP)
        assert close_queued(shared_store, number, Ending(EndReason.STOP_REQUESTED))

    monkeypatch.setattr(RunLock, "take_when_free", take)
    main_on_first_node(member, number, 1)
    assert supervised == []
    lock.release()


def test_a_run_that_somebody_has_here_is_not_taken(member, shared_store, supervised, monkeypatch):
    number = hand_over(shared_store)
    monkeypatch.setattr(first_node, "GIVE_UP_AFTER", 0)
    monkeypatch.setattr(RunLock, "take_when_free", RunLock.take_if_free)  # it would wait a while
    lock = RunLock.create(member.run_folder(number))
    main_on_first_node(member, number, 1)
    assert supervised == []
    lock.release()


def test_the_next_job_tidies_what_earlier_ones_left(member, shared_store, supervised):
    """What is in the object store becomes part of the cache; what another node has since had goes."""
    saved, elsewhere, waiting, unsaved, working, own = (hand_over(shared_store) for _ in range(6))
    for number in (saved, unsaved, working):
        end_here(shared_store, number, this_process(member), None if number == unsaved else DIGEST)
        give_folder(member, number, **{"outputs/a": "a"})
    write_files(RunFolder.of(member, working).work, {"b": "not saved"})
    shared_store.begin_attempt(elsewhere, ELSEWHERE)
    for number in (elsewhere, waiting):
        give_folder(member, number)
    local = add_run(shared_store).number  # of this machine's own
    write_files(member.node_parts, {f"{saved}-1-1/work/c": "of a supervisor that was killed"})
    main_on_first_node(member, own, 1)
    assert sorted(int(each.name) for each in member.runs.iterdir()) == [waiting, unsaved, working, own, local]
    assert [each.name for each in member.fetched.iterdir()] == [str(saved)]
    assert read_files(member.fetched / str(saved))["outputs/a"] == "a"
    assert list(member.node_parts.iterdir()) == []


def test_what_is_this_machines_own_or_somebody_has_is_not_tidied_away(member, shared_store, supervised):
    local, held, own = add_run(shared_store).number, *(hand_over(shared_store) for _ in range(2))
    shared_store.move(local, RunStatus.QUEUED)
    for number in (local, held):
        end_here(shared_store, number, this_process(member))
        give_folder(member, number, **{"outputs/a": "a"})
    lock = RunLock.take_if_free(member.run_folder(held))
    write_files(member.runs, {".removed-9/a": "of a job that was killed while it removed this"})
    main_on_first_node(member, own, 1)
    lock.release()
    assert sorted(each.name for each in member.runs.iterdir()) == [str(local), str(held), str(own)]
    assert not member.fetched.exists()


def test_code_of_an_attempt_that_another_node_followed_is_let_go(member, shared_store, supervised, folder):
    write_files(folder, {"code.py": "print(1)\n"})
    elsewhere, own = (hand_over(shared_store) for _ in range(2))
    shared_store.begin_attempt(elsewhere, ELSEWHERE)
    give_folder(member, elsewhere)
    snapshot(member, folder, number=elsewhere)
    main_on_first_node(member, own, 1)
    assert own_git(member.code_repository)("for-each-ref") == b""


def test_what_is_tidied_away_is_let_go_of_before(member, shared_store, supervised, monkeypatch):
    """NFS removes no folder in which a file is open."""
    elsewhere, own = (hand_over(shared_store) for _ in range(2))
    shared_store.begin_attempt(elsewhere, ELSEWHERE)
    give_folder(member, elsewhere)
    write_files(member.node_parts, {"9-1-1/lock": ""})
    remove, removed = first_node.remove_tree, []

    def remove_if_free(folder):
        lock = RunLock.take_if_free(folder)
        if lock is not None:
            lock.release()
            removed.append(folder.name)
            remove(folder)

    monkeypatch.setattr(first_node, "remove_tree", remove_if_free)
    main_on_first_node(member, own, 1)
    assert removed == [f".removed-{elsewhere}", "9-1-1"]
    assert [each.name for each in member.runs.iterdir()] == [str(own)]


def test_a_part_that_goes_on_is_not_tidied_away(member, shared_store, supervised):
    lock = RunLock.create(member.node_parts / "7-1-1")
    main_on_first_node(member, hand_over(shared_store), 1)
    assert [each.name for each in member.node_parts.iterdir()] == ["7-1-1"]
    lock.release()


def test_a_check_tells_that_a_node_can_work(member, team):
    found = find_out(member)
    assert (found["joined"], found["store"]) == (True, "")
    with team.files(member) as files:
        assert list(files.objects.names("probe")) == []


def test_a_check_tells_of_what_else_a_supervisor_needs(home, monkeypatch):
    assert find_out(home)["uv"] == ""

    def fail():
        raise BuildError("uv is not installed")

    monkeypatch.setattr(first_node, "uv_program", fail)
    assert find_out(home)["uv"] == "uv is not installed"


def test_a_check_tells_of_a_database_that_cannot_be_used(home):
    share(home.create(), TeamSettings("postgresql://127.0.0.1:9/none?connect_timeout=1"))
    assert "cannot be reached" in find_out(home)["store"]


def test_a_check_tells_of_an_object_store_that_cannot_be_used(member, team):
    with open_database(member):
        team.objects.write_text("a file in its place")
    assert str(team.objects) in find_out(member)["store"]


def test_a_check_of_a_home_that_has_not_joined_says_so(home):
    assert find_out(home)["joined"] is False
    assert find_out(None) == {**find_out(home), "store": ""}
