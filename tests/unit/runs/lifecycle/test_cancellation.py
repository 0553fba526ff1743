"""Work that is cut short: by whom, in which thread, and until when."""

import signal
import threading
from contextlib import suppress

import pytest

from conjure.errors import StoreError
from conjure.runs.database.base import STOP
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.lifecycle.cancellation import _Watch, poll_and_raise
from support.casting import add_run


class CutShortError(Exception):
    """What the tests have raised."""


def wait_for_ever():
    threading.Event().wait(60)
    raise AssertionError("it was not interrupted")


def test_a_wish_in_the_database_interrupts_what_the_main_thread_does(home):
    threads = []
    with SqliteDatabase.open(home) as store:
        number = add_run(store).number

        def look(own):
            threads.append(threading.current_thread())
            return CutShortError() if own.end_request(number) == STOP else None

        def work():
            with poll_and_raise(look, home):
                store.request_end(number, STOP)
                wait_for_ever()

        with pytest.raises(CutShortError):
            work()
    assert threading.main_thread() not in threads


def test_it_is_raised_again_where_something_swallows_it(home):
    SqliteDatabase.open(home).close()

    def work():
        with poll_and_raise(lambda _: CutShortError(), home):
            with suppress(CutShortError):
                wait_for_ever()
            wait_for_ever()

    with pytest.raises(CutShortError):
        work()


def test_nothing_is_left_when_the_block_is_over(home):
    SqliteDatabase.open(home).close()
    before = signal.getsignal(signal.SIGALRM)
    looked = threading.Event()
    with poll_and_raise(lambda _: looked.set(), home):
        assert looked.wait(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert [thread.name for thread in threading.enumerate() if thread.name == "cancellation"] == []


def test_a_database_that_cannot_be_read_is_tried_again(home):
    SqliteDatabase.open(home).close()
    looks = []
    looked_again = threading.Event()

    def look(store):
        looks.append(store)
        if len(looks) == 1:
            raise StoreError("the disk is full")
        if len(looks) == 3:
            looked_again.set()

    with poll_and_raise(look, home):
        assert looked_again.wait(60)
    assert [store is not None for store in looks[:3]] == [True, False, True]


def test_a_wish_that_came_by_a_signal_is_heard_where_nothing_can_be_read(home):
    def work():
        with poll_and_raise(
            lambda store: CutShortError() if store is None else None, home
        ):  # there is no database
            wait_for_ever()

    with pytest.raises(CutShortError):
        work()


def test_between_two_looks_it_rests(store):
    rests, looks = [], []

    class Over(threading.Event):
        def wait(self, timeout=None):
            rests.append(timeout)
            return self.is_set()

    def look(_):
        looks.append(1)
        if len(looks) == 3:
            watch.is_over.set()

    watch = _Watch(look, store.home)
    watch.is_over = Over()
    watch.run()
    assert (len(looks), rests) == (3, [0.2] * 5)  # once before it opens the store, and once at the end


def test_nothing_is_raised_where_nothing_was_found_or_it_is_over(store):
    """The signal may be somebody else's, or come as late as the block ends."""
    watch = _Watch(lambda _: CutShortError(), store.home)
    watch.deliver()
    watch.is_over.set()
    watch._found = CutShortError()
    watch.deliver()
