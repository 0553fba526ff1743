"""A run's life, from the wish to the closed record.

    `submit`, in the process that wants a run:
        RunSpec → number given → code recorded → supervisor started
    `carry`, in the run's supervisor:
        room found → code written out, environment built → mounts placed
        → command started, watched, ended → outputs saved → record closed

Main entries: `submit`, `rerun`, `carry`; the steps are in `casting` and `carrying`. Invariant: a run that was
given a number ends with exactly one ending, whatever happens in between.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from conjure.core.home import Home
from conjure.runs.artifacts.mount_sources import resolve_mounts
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.lifecycle.scheduler import refuse_impossible
from conjure.runs.lifecycle.spawning import Launch, interrupts_held
from conjure.runs.lifecycle.submission import (
    Submission,
    allocate_run,
    close_failed_submission,
    find_identical_run,
    refuse_own_folder,
    snapshot_code,
    spec_of_record,
)
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import EndReason

if TYPE_CHECKING:
    from conjure.runs.lifecycle.execution import RunContext


def _say_nothing(_number: int) -> None:
    pass


def submit(
    home: Home,
    spec: RunSpec,
    *,
    announce: Callable[[int], None] = _say_nothing,
    rerun_of: int | None = None,
) -> Submission:
    """Give a run its number, record its code, and hand it to a supervisor; it then goes on by itself.

    Args:
        home: Where conjure keeps things.
        spec: What is asked.
        announce: Told the number as soon as there is one.
        rerun_of: The run this one repeats.

    Raises:
        ConjureError: It cannot be; what could be checked was checked before a number was given.
        KeyboardInterrupt: After a number was announced: the record tells whether the run was called off, or
            goes on because it had been handed over.
    """
    requested = time.monotonic()
    with open_store(home) as store:
        refuse_own_folder(home, spec)
        refuse_impossible(spec.resources)
        mounts = resolve_mounts(home, store, spec.mounts)
        equal = find_identical_run(home, store, spec, mounts) if spec.idempotent else None
        if equal is not None:
            return Submission(equal, reused=True)
        # A ^C either calls the run off, and then its record says so, or comes after it was handed over.
        with interrupts_held() as interrupts:
            number, lock = allocate_run(home, store, spec, rerun_of)
            try:
                with Launch(home, number, lock) as supervisor:
                    with interrupts.let_through():
                        announce(number)
                        code = snapshot_code(home, store, number, spec)
                        store.set_facts(number, code=code, mounts=mounts)
                    supervisor.hand_over(spec, requested=requested)
            except BaseException as error:
                close_failed_submission(store, number, error)
                raise
            finally:
                lock.release()
        return Submission(store.get(number))


def rerun(
    home: Home,
    number: int,
    *,
    announce: Callable[[int], None] = _say_nothing,
    variables: Mapping[str, str] | None = None,
) -> Submission:
    """Cast a run's exact record again: same code, environment, mounts, command.

    Args:
        home: Where conjure keeps things.
        number: The run.
        announce: Told the new run's number as soon as there is one.
        variables: Secret variables the run was given; those that are set here count too.

    Raises:
        NotFoundError: There is no such run, or something it needs is gone.
        UsageError: It held a secret that is not stored, not given and not set here either.
    """
    with open_store(home) as store:
        spec = spec_of_record(home, store.get(number), variables)
    return submit(home, spec, announce=announce, rerun_of=number)


def carry(run: "RunContext") -> None:
    """Carry a run from the queue to its closed record."""
    # Only supervisors need these, and what they import would cost every `conjure run` a tenth of a second.
    from conjure.runs.lifecycle import execution as step

    step.handle_sigterm(run)
    result = None
    try:
        step.wait_for_resources(run)
        place, environment = step.build(run)
        baseline = step.mount(run)
        result = step.execute(run, place, environment)
        ending = step.how_it_ended(result)
        if ending.reason is not EndReason.KILL_REQUESTED:
            step.save(run, baseline, result)
    except step.EndRun as over:
        ending = over.ending
    step.close(run, ending, result)
