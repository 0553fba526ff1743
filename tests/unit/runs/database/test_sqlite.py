import json
import sqlite3

import pytest

from conjure.errors import ConflictError, NotFoundError, StoreError
from conjure.runs.database.rows import RunFilter
from conjure.runs.database.sqlite import KILL, STOP, Store, read_record
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts, RunRecord
from conjure.runs.schema.spec import ComputeRequest
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
    record = store.close(number, DONE, command_s=1.0, total_s=2.0)
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
        store.close(number, Ending(EndReason.KILL_REQUESTED))
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
    store.close(number, Ending(EndReason.KILL_REQUESTED))
    assert not store.request_end(number, STOP)


def test_admission_is_decided_and_recorded_together(store):
    number = add_run(store).number
    store.move(number, RunStatus.QUEUED)
    assert not store.admit(number, lambda _: None, OTHER)
    assert store.get(number).status is RunStatus.QUEUED
    assert store.admit(number, lambda claims: (len(claims), 3), OTHER)
    record = store.get(number)
    assert (record.status, record.gpu_ids, record.owner) == (RunStatus.BUILDING, (1, 3), OTHER)
    with pytest.raises(IllegalMoveError):
        store.admit(number, lambda _: (), OTHER)


def test_a_run_in_a_queue_is_carried_by_nobody(store):
    queue = Owner.queue("host", "boot")
    waiting, requested = add_run(store, resources=ComputeRequest(cpus=2)).number, add_run(store).number
    store.enqueue(waiting, queue)
    store.enqueue(waiting, queue)  # where a supervisor found no room it is put back
    assert numbers(store.active()) == [waiting, requested]
    assert numbers(store.supervised()) == [requested]
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


def test_a_queued_run_is_closed_where_it_waits_and_nowhere_else(store):
    ending = Ending(EndReason.KILL_REQUESTED)
    waiting, requested = add_run(store).number, add_run(store).number
    store.enqueue(waiting, Owner.queue("host", "boot"))
    assert not store.close_queued(requested, ending)
    assert store.close_queued(waiting, ending, total_s=2.0)
    assert not store.close_queued(waiting, ending)
    record = store.get(waiting)
    assert (record.status, record.total_s, record.waits_in_queue) == (RunStatus.KILLED, 2.0, False)
    with pytest.raises(IllegalMoveError):
        store.enqueue(waiting, Owner.queue("host", "boot"))


# ---- the record's file -------------------------------------------------------------------------------------


def test_the_file_says_what_the_row_says(home, store):
    number = add_run(store, labels=("a",)).number
    assert read_record(home.run_folder(number)) == store.get(number)
    finish(store, number, DONE)
    store.add_label(number, "b")
    store.set_archived(number, archived=True)
    store.set_facts(number, outputs=OutputFacts(1, 2))
    assert read_record(home.run_folder(number)) == store.get(number)


def test_only_the_owner_may_read_the_file(home, store):
    number = add_run(store).number
    assert (home.run_folder(number) / "run.json").stat().st_mode & 0o777 == 0o600
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_secrets_reach_neither_row_nor_file(home, store):
    number = add_run(store, "login --password hunter2", variables={"API_KEY": "hunter2"}).number
    assert store.get(number).spec.variables == {"API_KEY": "***"}
    assert all(b"hunter2" not in path.read_bytes() for path in home.root.rglob("*") if path.is_file())


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


def test_a_lost_database_is_rebuilt_from_the_folders(home):
    with Store.open(home) as store:
        for labels in [("a",), ()]:
            finish(store, add_run(store, labels=labels).number, DONE)
        store.add_label(2, "late")
        (home.run_folder(1) / "metrics.jsonl").write_text(
            '{"name": "loss", "step": 4, "value": 0.5, "time": 1}\n'
        )
        before = store.select()
    home.database.unlink()
    with Store.open(home) as store:
        assert store.select() == before
        assert store.summaries(1)["loss"].last_value == 0.5
        assert add_run(store).number == 3


def test_a_number_whose_folder_is_there_is_never_given_again(home):
    home.create()
    for name in ("1", "2", "9", "x", "07"):
        (home.runs / name).mkdir(parents=True)
    with Store.open(home) as store:
        assert add_run(store).number == 10


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
    with pytest.raises(StoreError, match=r"the disk that holds \S+ is full"):
        store.create_run(spec, OWNER, refuse)
    assert numbers(store.select()) == [1]


# ---- trouble -----------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_one_sentence(home):
    home.create()
    home.database.write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match="conjure's database is damaged") as caught:
        Store.open(home)
    assert "conjure doctor --reindex" in caught.value.fix


def test_a_clock_that_jumps_back_harms_no_status(home):
    times = iter([1e9, 5e8, 4e8, 3e8, 2e8, 1e8, -5.0])
    with Store.open(home, clock=lambda: next(times)) as store:
        record = finish(store, add_run(store).number, DONE)
        assert record.status is RunStatus.COMPLETE
        assert read_record(home.run_folder(1)) == record
        assert record.facts.ended_at == -5.0


def test_a_transaction_that_fails_is_undone_whole(store):
    number = add_run(store).number
    with pytest.raises(TypeError):
        store.set_facts(number, identity="new", code=CodeFacts(tree=object()))
    assert store.get(number).identity is None


def test_foreign_keys_are_held(store):
    with pytest.raises(StoreError):
        store.set_summaries(99, [Summary("a", 1, 0, 1.0, 1.0, 1.0)])


def test_no_sqlite_error_leaves_the_store(home, store):
    add_run(store)
    with sqlite3.connect(home.database) as other:
        other.execute("DROP TABLE links")
    with pytest.raises(StoreError, match="no such table: links"):
        store.links()


def test_a_record_is_readable_json_for_any_program(home, store):
    finish(store, add_run(store).number, DONE)
    stored = json.loads((home.run_folder(1) / "run.json").read_text())
    assert stored["status"] == "complete"
    assert RunRecord.from_dict(stored).number == 1
