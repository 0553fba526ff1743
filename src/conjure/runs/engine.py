"""A run's life, from the wish to the closed record.

    `cast`, in the process that wants a run:
        RunSpec → number given → code recorded → supervisor started
    `carry`, in the run's supervisor:
        room found → code written out, environment built → mounts placed
        → command started, watched, ended → outputs saved → record closed

Main entries: `cast`, `recast`, `carry`; the steps are in `casting` and `carrying`. Invariant: a run that was
given a number ends with exactly one ending, whatever happens in between.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from conjure.core.home import Home
from conjure.runs.casting import (
    Cast,
    close_failed_cast,
    find_equal,
    give_number,
    refuse_own_folder,
    spec_of_record,
    take_code,
)
from conjure.runs.custody import open_store
from conjure.runs.inputs import resolve_mounts
from conjure.runs.launching import Launch
from conjure.runs.queueing import refuse_impossible
from conjure.runs.spec import RunSpec
from conjure.runs.status import EndReason

if TYPE_CHECKING:
    from conjure.runs.carrying import Carried


def _say_nothing(_number: int) -> None:
    pass


def cast(
    home: Home,
    spec: RunSpec,
    *,
    announce: Callable[[int], None] = _say_nothing,
    rerun_of: int | None = None,
) -> Cast:
    """Give a run its number, record its code, and hand it to a supervisor; it then goes on by itself.

    Args:
        home: Where conjure keeps things.
        spec: What is asked.
        announce: Told the number as soon as there is one.
        rerun_of: The run this one repeats.

    Raises:
        ConjureError: It cannot be; what could be checked was checked before a number was given.
    """
    requested = time.monotonic()
    with open_store(home) as store:
        refuse_own_folder(home, spec)
        refuse_impossible(spec.resources)
        mounts = resolve_mounts(home, store, spec.mounts)
        equal = find_equal(home, store, spec, mounts) if spec.idempotent else None
        if equal is not None:
            return Cast(equal, reused=True)
        number, lock = give_number(home, store, spec, rerun_of)
        try:
            announce(number)
            with Launch(home, number, lock) as supervisor:
                code = take_code(home, store, number, spec)
                store.set_facts(number, code=code, mounts=mounts)
                supervisor.hand_over(spec, requested=requested)
        except BaseException as error:
            close_failed_cast(store, number, error)
            raise
        finally:
            lock.release()
        return Cast(store.get(number))


def recast(home: Home, number: int, *, announce: Callable[[int], None] = _say_nothing) -> Cast:
    """Cast a run's exact record again: same code, environment, mounts, command.

    Raises:
        NotFoundError: There is no such run, or something it needs is gone.
        UsageError: It held a secret that is not stored and is not set here either.
    """
    with open_store(home) as store:
        spec = spec_of_record(home, store.get(number))
    return cast(home, spec, announce=announce, rerun_of=number)


def carry(run: "Carried") -> None:
    """Carry a run from the queue to its closed record."""
    # Only supervisors need these, and what they import would cost every `conjure run` a tenth of a second.
    from conjure.runs import carrying as step

    step.heed_termination(run)
    watched = None
    try:
        step.wait_for_room(run)
        place, environment = step.build(run)
        before = step.mount(run)
        watched = step.execute(run, place, environment)
        ending = step.how_it_ended(watched)
        if ending.reason is not EndReason.KILL_REQUESTED:
            step.save(run, before, watched)
    except step.RunOverError as over:
        ending = over.ending
    step.close(run, ending, watched)
