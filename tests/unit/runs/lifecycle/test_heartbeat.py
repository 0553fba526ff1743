from types import SimpleNamespace

import pytest

from conjure.core.config import HEARTBEAT_EVERY_S, heartbeat_interval_s
from conjure.errors import StoreError
from conjure.runs.database.base import DatabaseAwayError, Lease
from conjure.runs.host.process import host_id
from conjure.runs.lifecycle import heartbeat
from conjure.runs.lifecycle.heartbeat import (
    GIVE_UP_AFTER,
    TAKE_OVER_AFTER,
    UNREACHABLE_AFTER,
    Heartbeat,
    is_abandoned,
    is_silent,
    is_unreachable,
    when_reachable,
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
    beating = Heartbeat(number, store.begin_attempt(number, HERE), timer=clock)
    monkeypatch.setattr(store, "renew_lease", lambda *lease: not renewed.append(lease))
    for seconds in (0.0, 0.1, HEARTBEAT_EVERY_S - 0.2, 0.2, 0.1):
        clock.now += seconds
        beating.beat(store)
    assert renewed == [(number, 1)] * 2


def test_wishes_are_looked_for_seldom_where_others_use_the_database():
    assert Heartbeat(1, 1, is_shared=True).look_every_s == 0.5
    assert Heartbeat(1, 1).look_every_s == 0.0


def test_who_lost_the_run_learns_it_at_the_next_beat(store):
    number, clock = add_run(store).number, Clock()
    beating = Heartbeat(number, store.begin_attempt(number, HERE), timer=clock)
    beating.beat(store)
    assert not beating.superseded
    store.begin_attempt(number, ELSEWHERE)
    beating.beat(store)
    assert not beating.superseded
    clock.now += HEARTBEAT_EVERY_S
    beating.beat(store)
    assert beating.superseded


def test_a_database_that_cannot_be_written_ends_nothing(store, monkeypatch):
    def fail(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "renew_lease", fail)
    beating = Heartbeat(1, 1)
    beating.beat(store)
    assert not beating.superseded


@pytest.mark.parametrize("interval_s", [HEARTBEAT_EVERY_S, 0.1])
@pytest.mark.parametrize("is_shared", [False, True])
def test_only_who_may_have_been_replaced_gives_up_after_a_while(is_shared, interval_s):
    clock = Clock()
    beating = Heartbeat(1, 1, is_shared, clock, interval_s=interval_s)
    beating.beat(None)
    clock.now += GIVE_UP_AFTER * interval_s - 0.01
    beating.beat(None)
    assert not beating.superseded
    clock.now += interval_s
    beating.beat(None)
    assert beating.superseded is is_shared
    assert GIVE_UP_AFTER + 2 < TAKE_OVER_AFTER


@pytest.mark.parametrize("interval_s", [HEARTBEAT_EVERY_S, 0.1])
def test_only_a_supervisor_elsewhere_can_be_unreachable(interval_s):
    late = UNREACHABLE_AFTER * interval_s + 0.1
    assert is_unreachable(Lease(1, 1, "elsewhere", late, interval_s))
    assert not is_unreachable(Lease(1, 1, "elsewhere", late - 0.2, interval_s))
    assert not is_unreachable(Lease(1, 1, host_id(), late, interval_s))
    gone = TAKE_OVER_AFTER * interval_s + 0.1
    assert is_abandoned(Lease(1, 1, "elsewhere", gone, interval_s))
    assert not is_abandoned(Lease(1, 1, "elsewhere", gone - 0.2, interval_s))


def test_who_was_heard_of_so_many_heartbeats_ago_is_not_silent_yet():
    assert not is_silent(Lease(1, 1, "elsewhere", 15.0, 5.0), 3)
    assert is_silent(Lease(1, 1, "elsewhere", 15.5, 5.0), 3)


def test_a_database_that_is_away_is_waited_for(monkeypatch):
    monkeypatch.setattr(heartbeat, "_TRY_EVERY_S", 0.0)
    tries, looked = [], []

    def act():
        tries.append(1)
        if len(tries) < 3:
            raise DatabaseAwayError("it is away")
        return "done"

    assert when_reachable(act, 60.0, lambda: looked.append(1)) == "done"
    assert (len(tries), len(looked)) == (3, 2)
    tries.clear()
    with pytest.raises(DatabaseAwayError):
        when_reachable(act, -1.0)
    assert len(tries) == 1


def test_a_server_that_is_away_is_not_asked_without_a_pause(monkeypatch):
    pauses, clock = [], Clock()
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=clock, sleep=pauses.append))

    def act():
        clock.now += 1.0
        raise DatabaseAwayError("it is away")

    with pytest.raises(DatabaseAwayError):
        when_reachable(act, 2.0)
    assert pauses == [1.0] * 2


def test_only_a_database_that_is_away_is_waited_for():
    def act():
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        when_reachable(act, 60.0, lambda: pytest.fail("it was tried again"))


def test_the_interval_is_a_setting_of_the_home(store):
    number = add_run(store).number
    store.begin_attempt(number, HERE)
    assert (store.leases()[number].interval_s, heartbeat_interval_s(store.home)) == (5.0, 5.0)
    store.home.config_file.write_text("[team]\nheartbeat = 0.1\n")
    assert (store.leases()[number].interval_s, heartbeat_interval_s(store.home)) == (0.1, 0.1)
