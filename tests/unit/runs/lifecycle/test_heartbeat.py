import pytest

from conjure.errors import StoreError
from conjure.runs.database.base import Lease
from conjure.runs.host.process import host_id
from conjure.runs.lifecycle.heartbeat import (
    GIVE_UP_AFTER_S,
    HEARTBEAT_EVERY_S,
    TAKE_OVER_AFTER_S,
    UNREACHABLE_AFTER_S,
    Heartbeat,
    is_unreachable,
)
from conjure.runs.schema.process_facts import Owner
from support.casting import add_run

HERE, ELSEWHERE = Owner("host", "boot", 1, "1"), Owner("elsewhere", "boot", 2, "2")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_it_beats_at_intervals_and_not_at_each_look(store, monkeypatch):
    number, clock, renewed = add_run(store).number, Clock(), []
    heartbeat = Heartbeat(number, store.begin_attempt(number, HERE), timer=clock)
    monkeypatch.setattr(store, "renew_lease", lambda *lease: not renewed.append(lease))
    for seconds in (0.0, 0.1, HEARTBEAT_EVERY_S - 0.2, 0.2, 0.1):
        clock.now += seconds
        heartbeat.beat(store)
    assert renewed == [(number, 1)] * 2


def test_who_lost_the_run_learns_it_at_the_next_beat(store):
    number, clock = add_run(store).number, Clock()
    heartbeat = Heartbeat(number, store.begin_attempt(number, HERE), timer=clock)
    heartbeat.beat(store)
    assert not heartbeat.superseded
    store.begin_attempt(number, ELSEWHERE)
    heartbeat.beat(store)
    assert not heartbeat.superseded
    clock.now += HEARTBEAT_EVERY_S
    heartbeat.beat(store)
    assert heartbeat.superseded


def test_a_database_that_cannot_be_written_ends_nothing(store, monkeypatch):
    def fail(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "renew_lease", fail)
    heartbeat = Heartbeat(1, 1)
    heartbeat.beat(store)
    assert not heartbeat.superseded


@pytest.mark.parametrize("is_shared", [False, True])
def test_only_who_may_have_been_replaced_gives_up_after_a_while(is_shared):
    clock = Clock()
    heartbeat = Heartbeat(1, 1, is_shared, clock)
    heartbeat.beat(None)
    clock.now += GIVE_UP_AFTER_S
    heartbeat.beat(None)
    assert not heartbeat.superseded
    clock.now += HEARTBEAT_EVERY_S
    heartbeat.beat(None)
    assert heartbeat.superseded is is_shared
    assert GIVE_UP_AFTER_S + 2 * HEARTBEAT_EVERY_S < TAKE_OVER_AFTER_S


def test_only_a_supervisor_elsewhere_can_be_unreachable():
    late, in_time = UNREACHABLE_AFTER_S + 2, UNREACHABLE_AFTER_S - 1
    assert is_unreachable(Lease(1, 1, "elsewhere", late))
    assert not is_unreachable(Lease(1, 1, "elsewhere", in_time))
    assert not is_unreachable(Lease(1, 1, host_id(), late))
