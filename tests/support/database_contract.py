"""What every database of conjure's must do: tests for whichever one the fixture `store` opens.

A module of tests for one database imports all of this; its `home` is where the files of the runs are.
"""

import json
import shutil
from pathlib import Path

import pytest

from conjure.errors import ConflictError, NotFoundError, StoreError
from conjure.runs.database.base import KILL, STOP, RunFilter, SupersededError
from conjure.runs.database.record_files import read_record, record_from_dict
from conjure.runs.database.sweep_rows import SweepState, TrialClaim, TrialRefusedError
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import Ending, EndReason, IllegalMoveError, RunStatus
from conjure.runs.telemetry.metrics import Summary
from support.casting import OWNER, add_run, advance, finish

OTHER = Owner("host", "boot", 2, "2")
DONE = Ending(EndReason.COMPLETED, 0)


def numbers(records):
    return [record.number for record in records]


# ---- a run's life ------------------------------------------------------------------------------------------


def test_numbers_count_up_from_1(store):
    assert [add_run(store).number for _ in range(3)] == [1, 2, 3]


def test_what_is_given_back_is_what_is_stored(store):
    record = add_run(store, "echo hi", labels=("a", "b"), params={"lr": "1"}, description="a try")
    assert store.get(record.number) == record
    assert record.status is RunStatus.REQUESTED


def test_a_run_moves_through_its_phases_to_its_end(store):
    number = add_run(store).number
    advance(store, number, RunStatus.SAVING)
    assert store.get(number).status is RunStatus.SAVING
    record = store.end_run(number, DONE, command_s=1.0, total_s=2.0)
    assert (record.status, record.command_s, record.total_s) == (RunStatus.COMPLETE, 1.0, 2.0)
    assert store.facts(number) == record.facts


@pytest.mark.parametrize("to", [RunStatus.REQUESTED, RunStatus.BUILDING, RunStatus.SAVING])
def test_an_illegal_move_changes_nothing(store, to):
    number = add_run(store).number
    before = store.get(number)
    with pytest.raises(IllegalMoveError):
        store.move(number, to)
    assert store.get(number) == before


def test_a_run_ends_once(store):
    number = finish(store, add_run(store).number, DONE).number
    with pytest.raises(IllegalMoveError):
        store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    with pytest.raises(IllegalMoveError):
        store.move(number, RunStatus.RUNNING)
    assert store.get(number).status is RunStatus.COMPLETE


def test_facts_are_written_down(store):
    number = add_run(store).number
    code, environment = CodeFacts("tree", warnings=("w",)), EnvironmentFacts("d", "python", {"a": "1"})
    mounts = (MountFacts("runs/9/x", "x", read_only=True, source="runs/9/x"),)
    store.set_facts(number, code=code, environment=environment, mounts=mounts, identity="same")
    store.set_facts(number, outputs=OutputFacts(1, 2), usage=Usage(cpu_s=3.0))
    record = store.get(number)
    assert (record.code, record.environment, record.mounts) == (code, environment, mounts)
    assert (record.outputs, record.usage, record.identity) == (OutputFacts(1, 2), Usage(cpu_s=3.0), "same")


def test_an_end_can_be_asked_for_and_a_kill_outranks_a_stop(store):
    number = add_run(store).number
    assert store.end_request(number) is None
    assert store.request_end(number, STOP)
    assert store.end_request(number) == STOP
    assert store.request_end(number, KILL)
    assert store.request_end(number, STOP)
    assert store.end_request(number) == KILL
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    assert not store.request_end(number, STOP)


def test_admission_is_decided_and_recorded_together(store):
    number = add_run(store).number
    store.move(number, RunStatus.QUEUED)
    assert not store.admit(number, lambda _: None)
    assert store.get(number).status is RunStatus.QUEUED
    assert store.admit(number, lambda claims: (len(claims), 3))
    record = store.get(number)
    assert (record.status, record.gpu_ids) == (RunStatus.BUILDING, (1, 3))
    with pytest.raises(IllegalMoveError):
        store.admit(number, lambda _: ())


def test_a_run_in_a_queue_is_carried_by_nobody(store):
    queue = Owner.queue("host", "boot")
    waiting, requested = add_run(store, resources=ComputeRequest(cpus=2)).number, add_run(store).number
    store.enqueue(waiting, queue)
    store.enqueue(waiting, queue)  # where a supervisor found no room it is put back
    assert numbers(store.active()) == [waiting, requested]
    assert numbers(store.supervised()) == [requested]
    assert numbers(store.supervised_by(OWNER.host_id, silent_for_s=60)) == [requested]
    assert store.supervised_by("another host", silent_for_s=60) == []
    assert store.get(waiting).waits_in_queue
    claim, other = store.claims()
    assert (claim.needs, claim.machine, claim.in_queue, claim.started) == (
        ComputeRequest(cpus=2),
        "host",
        True,
        False,
    )
    assert not other.in_queue
    assert store.queued(queue) == {waiting: True}
    assert store.queued(Owner.queue("host", "a later boot")) == {waiting: False}
    assert store.queued(Owner.queue("another host", "boot")) == {}


@pytest.mark.parametrize(("later_s", "may_start"), [(-1.0, True), (500.0, False), (7200.0, True)])
def test_a_clock_that_was_set_back_keeps_no_run_from_its_next_attempt(store, later_s, may_start):
    number = add_run(store, retry=1).number
    advance(store, number, RunStatus.RUNNING)
    died, queue = Ending(EndReason.SUPERVISOR_DIED), Owner.queue("host", "boot")
    store.retry_run(number, died, queue, host=None, delay_s=1.0)
    store._set(number, {"retry_at": store._session.now() + later_s})
    (claim,) = store.claims()
    assert claim.may_start is may_start


def test_an_attempt_ends_and_the_run_waits_for_the_next(store):
    run = add_run(store, retry=1)
    number, queue = run.number, Owner.queue("host", "boot")
    advance(store, number, RunStatus.RUNNING)
    started = store.get(number).facts.entered[RunStatus.RUNNING]
    died = Ending(EndReason.SUPERVISOR_DIED, message="it died")
    store.retry_run(number, died, queue, host="far", delay_s=500.0)
    record = store.get(number)
    (attempt,) = record.attempts
    assert (attempt.number, attempt.host, attempt.running_at) == (1, "far", started)
    assert (attempt.end_reason, attempt.message) == ("supervisor_died", "it died")
    assert (record.status, record.waits_in_queue) == (RunStatus.QUEUED, True)
    assert read_record(store.home.run_folder(number)) == record
    (claim,) = store.claims()
    assert not claim.may_start
    assert 490 < claim.delay_s <= 500
    store.begin_attempt(number, OTHER)
    (claim,) = store.claims()
    assert claim.may_start
    store.move(number, RunStatus.BUILDING)
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    assert store.get(number).attempts == (attempt,)


def test_what_supervisors_are_given_is_kept_until_the_end(store):
    number = add_run(store).number
    assert store.request(number) is None
    store.set_request(number, "one")
    store.set_request(number, "two")
    assert store.request(number) == "two"
    finish(store, number, DONE)
    assert store.request(number) is None
    with pytest.raises(IllegalMoveError):
        store.set_request(number, "late")


def test_how_long_ago_a_run_was_asked_for_is_told(store):
    assert 0 <= store.age_s(add_run(store).number) < 60


def test_an_attempt_that_is_not_the_expected_one_is_refused(store):
    number = add_run(store).number
    assert store.newest_attempt(number) == 0
    with pytest.raises(SupersededError):
        store.begin_attempt(number, OTHER, expected=2)
    assert store.get(number).owner == OWNER
    assert store.begin_attempt(number, OTHER, expected=1) == 1
    with pytest.raises(SupersededError):
        store.begin_attempt(number, OWNER, expected=1)
    assert (store.newest_attempt(number), store.get(number).owner) == (1, OTHER)


def test_a_run_that_is_to_end_gets_no_further_attempt(store):
    died, queue = Ending(EndReason.SUPERVISOR_DIED), Owner.queue("host", "boot")
    number = add_run(store).number
    with pytest.raises(IllegalMoveError):  # nobody has supervised it yet
        store.retry_run(number, died, queue, host=None, delay_s=1.0)
    advance(store, number, RunStatus.RUNNING)
    store.request_end(number, STOP)
    with pytest.raises(IllegalMoveError):
        store.retry_run(number, died, queue, host=None, delay_s=1.0)
    assert store.get(number).attempts == ()
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    with pytest.raises(IllegalMoveError):
        store.retry_run(number, died, queue, host=None, delay_s=1.0)


def test_a_run_waits_for_those_that_have_not_completed(store):
    done, failed, active = (add_run(store).number for _ in range(3))
    finish(store, done, DONE)
    store.end_run(failed, Ending(EndReason.KILL_REQUESTED))
    waiting = [add_run(store, after=after).number for after in ((done,), (active, done), (failed, active))]
    found = {claim.number: (claim.after, claim.failed) for claim in store.claims()}
    assert [found[number] for number in waiting] == [
        ((), None),
        ((active,), None),
        ((failed, active), (failed, RunStatus.KILLED)),
    ]
    lost = add_run(store, after=(active, 99)).number
    assert store.claims()[-1].number == lost
    assert store.claims()[-1].failed == (99, None)


def test_a_queued_run_is_closed_where_it_waits_and_nowhere_else(store):
    ending = Ending(EndReason.KILL_REQUESTED)
    waiting, requested = add_run(store).number, add_run(store).number
    store.enqueue(waiting, Owner.queue("host", "boot"))
    assert not store.end_queued_run(requested, ending)
    assert store.end_queued_run(waiting, ending, total_s=2.0)
    assert not store.end_queued_run(waiting, ending)
    record = store.get(waiting)
    assert (record.status, record.total_s, record.waits_in_queue) == (RunStatus.KILLED, 2.0, False)
    with pytest.raises(IllegalMoveError):
        store.enqueue(waiting, Owner.queue("host", "boot"))


def test_a_run_is_cancelled_only_while_it_is_submitted(store):
    ending = Ending(EndReason.STOP_REQUESTED)
    submitted, waiting, begun = (add_run(store).number for _ in range(3))
    store.enqueue(waiting, Owner.queue("host", "boot"))
    store.begin_attempt(begun, OWNER)
    found = [store.cancel_submission(number, ending) for number in (submitted, waiting, begun, submitted)]
    assert found == [True, False, False, False]
    with pytest.raises(IllegalMoveError):
        store.begin_attempt(submitted, OWNER)


def test_what_is_submitted_to_a_cluster_takes_nothing_of_this_machine(store):
    add_run(store, on="gpu")
    add_run(store)
    assert [claim.machine for claim in store.claims()] == [None, OWNER.host_id]


# ---- the record's file -------------------------------------------------------------------------------------


def test_the_file_says_what_the_row_says(home, store):
    number = add_run(store, labels=("a",)).number
    assert read_record(home.run_folder(number)) == store.get(number)
    finish(store, number, DONE)
    store.add_label(number, "b")
    store.set_archived(number, archived=True)
    store.set_facts(number, outputs=OutputFacts(1, 2))
    assert read_record(home.run_folder(number)) == store.get(number)


def test_a_command_that_is_not_utf8_can_be_recorded(home, store):
    number = add_run(store, "cat caf\udce9").number
    assert store.get(number).spec.command == ("cat caf\udce9",)
    assert store.get(number).to_dict()["command"] == "cat caf\\xe9"
    assert read_record(home.run_folder(number)) == store.get(number)


# ---- looking -----------------------------------------------------------------------------------------------


def test_an_unknown_number_is_answered_with_the_newest(store):
    with pytest.raises(NotFoundError, match="there is no run 7; there are no runs yet"):
        store.get(7)
    add_run(store)
    with pytest.raises(NotFoundError, match="there is no run 7; the newest is 1"):
        store.get(7)


def test_runs_are_listed_newest_first_and_filtered(store):
    for labels in [("a",), ("b",), ("a", "b"), ()]:
        add_run(store, labels=labels)
    finish(store, 1, DONE)
    finish(store, 2, Ending(EndReason.TIMEOUT, 0))
    store.set_archived(4, archived=True)
    assert numbers(store.select()) == [3, 2, 1]
    assert numbers(store.select(RunFilter(archived=True))) == [4, 3, 2, 1]
    assert numbers(store.select(RunFilter(limit=2))) == [3, 2]
    assert numbers(store.select(RunFilter(labels=("a",)))) == [3, 1]
    assert numbers(store.select(RunFilter(labels=("a", "b")))) == [3, 2, 1]
    assert numbers(store.select(RunFilter(statuses=(RunStatus.COMPLETE, RunStatus.STOPPED)))) == [2, 1]
    assert numbers(store.select(RunFilter(kind="finetune"))) == []
    assert numbers(store.active()) == [3, 4]


@pytest.mark.parametrize("status", [status for status in RunStatus if not status.is_final])
def test_a_status_finds_exactly_the_runs_that_have_it(store, status):
    for phase in [status for status in RunStatus if not status.is_final]:
        advance(store, add_run(store).number, phase)
    assert [record.status for record in store.select(RunFilter(statuses=(status,)))] == [status]


@pytest.mark.parametrize("order", [None, "param:lr"])
def test_a_page_of_a_status_leaves_out_a_run_that_is_presumed_to_have_ended(store, order):
    for number in range(5):
        add_run(store, params={"lr": str(number)})
    store.presume_ended(4, DONE)
    wanted = RunFilter(statuses=(RunStatus.REQUESTED,), limit=2, offset=1, order=order, highest_first=True)
    assert numbers(store.listing(wanted)) == [3, 2]
    assert store.count(wanted) == 4


def test_runs_are_ordered_by_a_metric(store):
    for value in (2.0, 1.0, 3.0):
        number = add_run(store).number
        store.set_summaries(number, [Summary("loss", 1, 0, value, value, value)])
    add_run(store)
    assert numbers(store.select(RunFilter(sort_metric="loss"))) == [2, 1, 3]
    assert numbers(store.select(RunFilter(sort_metric="loss", highest_first=True, limit=1))) == [3]


def test_runs_that_mount_another_are_known(store):
    for source in ("runs/1/a", "runs/12/a", "uploads/1", "runs/1"):
        number = add_run(store).number
        store.set_facts(number, mounts=(MountFacts("x", "x", read_only=False, source=source),))
    assert store.users_of(1) == [1, 4]
    assert store.users_of(12) == [2]
    assert store.sources_in_use()["uploads/1"] == [3]


def test_an_equal_completed_run_is_found(store):
    for ending in (DONE, DONE, Ending(EndReason.NONZERO_EXIT, 1)):
        number = add_run(store).number
        store.set_facts(number, identity="same")
        finish(store, number, ending)
    found = store.completed_equal("same")
    assert found is not None
    assert found.number == 2
    assert store.completed_equal("other") is None
    store.set_facts(2, outputs=OutputFacts(removed=True))
    assert store.completed_equal("same").number == 1


# ---- labels, links, metrics --------------------------------------------------------------------------------


def test_labels_come_and_go(store):
    number = add_run(store, labels=("a",)).number
    store.add_label(number, "b")
    store.add_label(number, "b")
    assert store.get(number).labels == ("a", "b")
    store.remove_label(number, "a")
    assert store.get(number).labels == ("b",)
    with pytest.raises(NotFoundError, match="run 1 has no label 'a'; its labels are b"):
        store.remove_label(number, "a")
    with pytest.raises(NotFoundError):
        store.add_label(99, "x")


def test_runs_are_listed_by_project(store):
    for project in ("jokes", None, "recipes", "jokes"):
        add_run(store, project=project)
    assert numbers(store.select(RunFilter(projects=("jokes",)))) == [4, 1]
    assert numbers(store.select(RunFilter(projects=("jokes", "recipes")))) == [4, 3, 1]
    assert numbers(store.select(RunFilter(projects=("",)))) == [2]
    assert numbers(store.select(RunFilter(projects=("", "recipes")))) == [3, 2]
    assert numbers(store.select(RunFilter(projects=("joke",)))) == []
    assert numbers(store.select(RunFilter(search="JOKE"))) == [4, 1]
    assert [run.project for run in store.listing(RunFilter(order="project"))] == [
        *("jokes", "jokes", "recipes", None)
    ]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("train", [3, 2, 1]),
        ("TRAIN adam", [2]),
        ("adam.w", [2]),
        ("lr=0.1", [1]),
        ("Élan", [3]),
        ("keep", [1]),
        ("puns", [3]),
        ("jokes", []),  # what the project was called before
        ("resources", []),  # in the JSON of every run, but nothing of it
        ("#2", [2]),
    ],
)
def test_a_search_looks_into_texts_params_and_labels(store, search, expected):
    add_run(store, "python train.py", params={"lr": "0.1"}, labels=("keep",))
    add_run(store, "python train.py", params={"optimizer": "Adam.W"})
    add_run(store, "python train.py", description="with Élan", project="jokes")
    store.rename_project("jokes", "puns")
    found = RunFilter(search=search)
    assert numbers(store.select(found)) == expected
    page, total = store.listing_page(RunFilter(search=search, limit=1))
    assert page == store.listing(RunFilter(search=search, limit=1))
    assert total == store.count(found)


def test_projects_are_what_runs_name(store):
    assert store.projects() == []
    for project in ("jokes", None, "recipes", "jokes"):
        add_run(store, project=project)
    finish(store, 1, DONE)
    found = [(each.name, each.runs, each.active, each.newest) for each in store.projects()]
    assert found == [("jokes", 2, 1, 4), ("recipes", 1, 1, 3), (None, 1, 1, 2)]
    assert store.projects()[0].requested_at == store.get(4).requested_at
    assert store.project_names() == ["jokes", "recipes"]


def test_a_project_is_renamed_in_rows_and_files(home, store):
    for project in ("jokes", "other", "jokes"):
        add_run(store, project=project, labels=("kept",))
    finish(store, 1, DONE)
    assert store.rename_project("jokes", "puns") == 2
    assert [store.get(number).project for number in (1, 2, 3)] == ["puns", "other", "puns"]
    assert read_record(home.run_folder(1)) == store.get(1)
    assert store.get(1).labels == ("kept",)
    assert store.suspects() == []
    with pytest.raises(NotFoundError, match="there is no project 'pun'; did you mean puns"):
        store.rename_project("pun", "x")


def test_a_project_is_still_known_after_reindexing(home, store):
    add_run(store, project="jokes")
    finish(store, 1, DONE)
    record = store.get(1)
    store.put_record(record)
    assert store.reindex() == ([1], [])
    assert store.get(1) == record
    assert numbers(store.select(RunFilter(projects=("jokes",)))) == [1]


def test_links_come_and_go(store):
    store.set_link("best", "runs/3")
    assert store.lookup_link("best") == "runs/3"
    assert [link.name for link in store.links()] == ["best"]
    with pytest.raises(ConflictError, match="link 'best' already exists and points to runs/3"):
        store.set_link("best", "runs/4")
    store.remove_link("best")
    assert store.lookup_link("best") is None
    with pytest.raises(NotFoundError):
        store.remove_link("best")


def test_summaries_are_replaced(store):
    number = add_run(store).number
    store.set_summaries(number, [Summary("a", 1, 0, 1.0, 1.0, 1.0), Summary("b", 1, 0, 1.0, 1.0, 1.0)])
    store.set_summaries(number, [Summary("a", 2, 1, 3.0, 1.0, 3.0)])
    assert store.summaries(number)["a"] == Summary("a", 2, 1, 3.0, 1.0, 3.0)
    assert set(store.summaries(number)) == {"a", "b"}


# ---- rebuilding --------------------------------------------------------------------------------------------


def test_a_record_that_is_put_back_replaces_what_stood_there(store):
    finish(store, add_run(store, labels=("a",), description="early").number, DONE)
    before = store.get(1)
    store.add_label(1, "b")
    store.set_summaries(1, [Summary("gone", 1, 0, 1.0, 1.0, 1.0)])
    store.set_facts(1, outputs=OutputFacts(1, 2), identity="same")
    store.put_record(before)
    assert store.get(1) == before
    assert store.summaries(1) == {}


def test_a_folder_that_appears_later_is_stepped_over(home, store):
    add_run(store)
    (home.runs / "2").mkdir()
    (home.runs / "5").mkdir()
    assert add_run(store).number == 6


def test_reindexing_tells_what_it_could_not_read(home, store):
    finish(store, add_run(store).number, DONE)
    refused = json.dumps(store.get(1).to_dict() | {"number": 5, "spec": {"command": [], "folder": "/"}})
    for number, content in [(2, "{"), (3, '{"number": 3}'), (4, None), (5, refused)]:
        home.run_folder(number).mkdir()
        if content is not None:
            (home.run_folder(number) / "run.json").write_text(content)
    assert store.reindex() == ([1], [2, 3, 4, 5])
    assert add_run(store).number == 6


def test_a_failed_reservation_leaves_no_trace(store):
    def refuse(_number):
        raise OSError(28, "No space left on device")

    spec = add_run(store).spec
    with pytest.raises(StoreError, match=r"the disk that contains \S+ is full"):
        store.create_run(spec, OWNER, refuse)
    assert numbers(store.select()) == [1]


# ---- trouble -----------------------------------------------------------------------------------------------


def test_a_transaction_that_fails_is_undone_whole(store):
    number = add_run(store).number
    with pytest.raises(TypeError):
        store.set_facts(number, identity="new", code=CodeFacts(tree=object()))
    assert store.get(number).identity is None


def test_foreign_keys_are_held(store):
    with pytest.raises(StoreError):
        store.set_summaries(99, [Summary("a", 1, 0, 1.0, 1.0, 1.0)])


def test_a_record_is_readable_json_for_any_program(home, store):
    finish(store, add_run(store).number, DONE)
    stored = json.loads((home.run_folder(1) / "run.json").read_text())
    assert stored["status"] == "complete"
    assert record_from_dict(stored).number == 1


# ---- leases ------------------------------------------------------------------------------------------------


def snapshot(store, number):
    return store.get(number), store.summaries(number), store.links()


def test_each_supervisor_has_an_attempt_of_its_own(store):
    number = add_run(store).number
    assert store.begin_attempt(number, OWNER) == 1
    assert store.get(number).owner == OWNER
    assert store.begin_attempt(number, OTHER) == 2
    assert store.get(number).owner == OTHER
    store.end_run(number, Ending(EndReason.KILL_REQUESTED))
    with pytest.raises(IllegalMoveError):
        store.begin_attempt(number, OWNER)


WRITES = {
    "move": lambda store, number: store.move(number, RunStatus.QUEUED),
    "end_run": lambda store, number: store.end_run(number, Ending(EndReason.KILL_REQUESTED)),
    "set_facts": lambda store, number: store.set_facts(number, usage=Usage(1.0), outputs=OutputFacts(1, 1)),
    "set_summaries": lambda store, number: store.set_summaries(number, [Summary("a", 1, 0, 1.0, 1.0, 1.0)]),
    "enqueue": lambda store, number: store.enqueue(number, Owner.queue("host", "boot")),
    "admit": lambda store, number: store.admit(number, lambda _: ()),
    "begin_attempt": lambda store, number: store.begin_attempt(number, OWNER),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_that_a_supervisor_writes_is_accepted_once_another_has_the_run(store, second_store, write):
    number = add_run(store).number
    store.write_as(number, store.begin_attempt(number, OWNER))
    store.set_facts(number, identity="of the first")
    second_store.begin_attempt(number, OTHER)
    before = snapshot(second_store, number)
    with pytest.raises(SupersededError, match="run 1 was taken over: this is attempt 1 of 2"):
        WRITES[write](store, number)
    assert snapshot(second_store, number) == before


def test_a_supervisor_writes_of_other_runs_as_anybody_does(store, second_store):
    own, other = add_run(store).number, add_run(store).number
    store.write_as(own, store.begin_attempt(own, OWNER))
    second_store.begin_attempt(own, OTHER)
    store.move(other, RunStatus.QUEUED)
    assert store.get(other).status is RunStatus.QUEUED


def test_a_lease_is_renewed_by_its_attempt_alone(store):
    number = add_run(store).number
    attempt = store.begin_attempt(number, OWNER)
    assert store.renew_lease(number, attempt)
    assert store.leases()[number].attempt == attempt
    assert store.leases()[number].machine == "host"
    assert 0 <= store.leases()[number].heartbeat_age_s < 60
    assert store.supervised_by("another host", silent_for_s=60) == []
    assert numbers(store.supervised_by("another host", silent_for_s=-60)) == [number]
    store.begin_attempt(number, OTHER)
    assert not store.renew_lease(number, attempt)
    finish(store, number, DONE)
    assert store.leases() == {}


def test_a_run_in_a_queue_has_nobody_to_hear_of(store):
    number = add_run(store).number
    store.begin_attempt(number, OWNER)
    store.enqueue(number, Owner.queue("host", "boot"))
    assert store.leases() == {}


def test_a_record_that_is_put_back_lets_no_earlier_supervisor_write(store, second_store):
    number = add_run(store).number
    store.write_as(number, store.begin_attempt(number, OWNER))
    second_store.begin_attempt(number, OTHER)
    second_store.put_record(second_store.get(number))
    with pytest.raises(SupersededError):
        store.move(number, RunStatus.QUEUED)


# ---- sweeps ------------------------------------------------------------------------------------------------


def start_trial(store, sweep, trial, attempt=1):
    """Start a trial, and go on to where it can end."""
    claim = TrialClaim(sweep, trial, attempt, {"x": str(trial)})
    spec = RunSpec(command=("true", ":x:"), folder=Path("/code"))
    number = store.create_run(
        spec, OWNER, lambda number: store.home.run_folder(number).mkdir(parents=True), trial=claim
    ).number
    advance(store, number, RunStatus.SAVING)
    return number


def test_a_trial_is_started_once_and_no_more_than_wanted_at_a_time(store):
    sweep = store.create_sweep({"asked": 1}, trials=3, parallel=1, rung_metric="loss")
    run = start_trial(store, sweep, 0)
    with pytest.raises(TrialRefusedError, match="already has 1 active trial"):
        start_trial(store, sweep, 1)
    store.end_run(run, DONE)
    for attempt in (1, 3):
        with pytest.raises(TrialRefusedError, match="was started already"):
            start_trial(store, sweep, 0, attempt)
    again = start_trial(store, sweep, 0, 2)
    assert [(row.trial, row.run, row.attempt, row.params) for row in store.trials(sweep)] == [
        (0, again, 2, {"x": "0"})
    ]
    assert store.numbers() == {run, again}


def test_what_a_trial_came_to_and_its_rungs_are_written_down(store):
    sweep = store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric="loss")
    run = start_trial(store, sweep, 0)
    assert (store.rung_metric(run), store.rung_metric(run + 1)) == ("loss", None)
    store.set_rung(run, 1, 2.5)
    store.set_rung(run, 2, None)
    assert store.rungs(sweep)[run].values == {1: 2.5, 2: None}
    store.end_run(run, DONE, command_s=3.0)
    store.settle_trial(sweep, 0, run, 0.5, 7)
    (row,) = store.trials(sweep)
    assert (row.settled, row.value, row.step, row.command_s) == (True, 0.5, 7, 3.0)


def test_a_further_attempt_at_a_trial_starts_without_the_rungs_of_the_one_before(store):
    sweep = store.create_sweep({"asked": 1}, trials=2, parallel=2, rung_metric="loss")
    run, other = start_trial(store, sweep, 0), start_trial(store, sweep, 1)
    for trial in (run, other):
        store.set_rung(trial, 64, None)
    store.retry_run(run, Ending(EndReason.NONZERO_EXIT, 1), OWNER, host=None, delay_s=0.0)
    store.set_rung(run, 1, 0.5)
    assert {number: rungs.values for number, rungs in store.rungs(sweep).items()} == {
        run: {1: 0.5},
        other: {64: None},
    }


def test_a_sweep_ends_once_and_can_go_on(store):
    sweep = store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None)
    assert not store.end_sweep(sweep, SweepState.STOPPED, "because", trials=2)
    assert store.end_sweep(sweep, SweepState.STOPPED, "because", trials=1)
    assert not store.end_sweep(sweep, SweepState.COMPLETE)
    with pytest.raises(TrialRefusedError, match="is stopped"):
        start_trial(store, sweep, 0)
    assert (store.sweep(sweep).state, store.sweep(sweep).message) == (SweepState.STOPPED, "because")
    store.continue_sweep(sweep, trials=4)
    assert [(row.state, row.trials, row.request) for row in store.sweeps()] == [
        (SweepState.RUNNING, 4, {"asked": 1})
    ]
    with pytest.raises(NotFoundError, match="there is no sweep 9; the newest is 1"):
        store.sweep(9)


def lose_sweeps(store):
    """As a database that was made anew has none."""
    for table in ("sweep_trials", "sweeps"):
        store._session.execute(f"DELETE FROM {table}")


def test_a_lost_sweep_is_restored_from_its_file_with_its_trials(store):
    sweep = store.create_sweep({"asked": 1}, trials=3, parallel=2, rung_metric="loss")
    run, other = start_trial(store, sweep, 0), start_trial(store, sweep, 1)
    store.end_run(run, DONE)
    store.settle_trial(sweep, 0, run, 0.5, 7)
    store.end_sweep(sweep, SweepState.STOPPED, "because")
    before, trials = store.sweep(sweep), store.trials(sweep)
    lose_sweeps(store)
    store.reindex()
    assert (store.sweep(sweep), store.trials(sweep)) == (before, trials)
    assert store.rung_metric(other) == "loss"
    store.continue_sweep(sweep, trials=4)
    lose_sweeps(store)
    store._session.execute("DELETE FROM runs WHERE number = ?", (other,))
    shutil.rmtree(store.home.run_folder(other))
    store.reindex()
    assert (store.sweep(sweep).state, store.sweep(sweep).trials) == (SweepState.RUNNING, 4)
    assert store.trials(sweep) == trials[:1]


def test_the_file_of_a_sweep_that_has_ended_has_what_its_last_trials_came_to(store):
    sweep = store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None)
    run = start_trial(store, sweep, 0)
    store.end_sweep(sweep, SweepState.STOPPED)
    store.end_run(run, DONE)
    store.settle_trial(sweep, 0, run, 0.5, 7)
    trials = store.trials(sweep)
    lose_sweeps(store)
    store.reindex()
    assert store.trials(sweep) == trials


def test_a_sweep_from_before_there_was_a_file_gets_one(store):
    sweep = store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None)
    before = store.sweep(sweep)
    store.home.sweep_file(sweep).unlink()
    store.reindex()
    lose_sweeps(store)
    store.reindex()
    assert store.sweep(sweep) == before


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("{", ""),
        ('"sweep": {', '"sweep": 1, "none": {'),
        ('"number": 1', '"number": 2'),
        ('"parallel": 1', '"parallel": "x"'),
        ('"state": "running"', '"state": "odd"'),
        ('"trials": []', '"trials": [1]'),
        ('"trials": []', '"trials": [{"trial": 0, "params": "{}"}]'),
    ],
)
def test_a_sweep_whose_file_is_damaged_is_not_restored_and_its_number_not_given_again(store, part, other):
    sweep = store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None)
    path = store.home.sweep_file(sweep)
    damaged = path.read_text().replace(part, other, 1)
    assert damaged != path.read_text()
    path.write_text(damaged)
    lose_sweeps(store)
    store.reindex()
    assert store.sweeps() == []
    assert store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None) == sweep + 1


@pytest.mark.parametrize("name", ["4.lock", "4.log", "4.json"])
def test_a_number_of_a_sweep_that_left_a_file_is_not_given_again(store, name):
    store.home.sweeps.mkdir()
    (store.home.sweeps / name).touch()
    assert store.create_sweep({"asked": 1}, trials=1, parallel=1, rung_metric=None) == 5
