"""Starting, stopping and resuming sweeps: what is done from outside the driver.

Main entries: `start_sweep`, `resume_sweep`, `stop_sweep`, `has_driver`. Invariant: at most one driver of a
sweep lives in a home; the kernel takes its lock back when it dies. One whose sweep has ended lets go of it,
and takes a settler's until the trials have ended too: so who resumes the sweep need not wait for them.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from conjure.core.files import is_locked, lock_or_close
from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import ConflictError, ExecutorError, StoreError, UsageError, option
from conjure.installation import install_command
from conjure.recipes.lazy_model_checks import refuse_changed_models
from conjure.runs.database.base import STOP, Database
from conjure.runs.database.sweep_rows import SweepRow, SweepState
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import end_runs
from conjure.runs.lifecycle.submission import refuse_own_folder, refuse_unfit
from conjure.runs.schema.spec import RunSpec, split_withheld
from conjure.sweeps.request import MOST_TRIALS, SweepRequest
from conjure.sweeps.settling import settle_trials

_PRIVATE = 0o700
_ATTEMPTS, _BETWEEN_S = 5, 0.02
_LEAVES_WITHIN_S = 10.0


def start_sweep(home: Home, request: SweepRequest) -> int:
    """Give a sweep its number and start its driver; the sweep then goes on by itself.

    Raises:
        ConjureError: It cannot be started.
    """
    require_packages(request)
    refuse_unfit(home, request.spec)
    # Whoever resumes the sweep may do so in another folder.
    mounts = tuple(mount.absolute() for mount in request.spec.mounts)
    request = replace(request, spec=replace(request.spec, mounts=mounts))
    with open_store(home) as store:
        refuse_own_folder(home, request.spec)
        number = store.create_sweep(
            request.to_dict(),
            trials=request.trial_count,
            parallel=request.parallel,
            rung_metric=request.rung_metric,
        )
    start_driver(home, number, request)
    return number


def require_packages(request: SweepRequest) -> None:
    """Refuse a method whose packages are not installed.

    Raises:
        UsageError: They are not.
    """
    if request.method == "tpe" and find_spec("optuna") is None:
        raise UsageError("tpe needs Optuna, which is not installed", fix=install_command("sweeps"))


def resume_sweep(home: Home, number: int, *, retry_failed: bool = False, more: int = 0) -> SweepRow:
    """Let a sweep go on: with the same proposals, and with a new run of each trial that was stopped or lost.

    Args:
        number: The sweep.
        retry_failed: Also run failed trials again.
        more: So many more different trials than before.

    Raises:
        NotFoundError: There is no such sweep.
        ConflictError: It has a driver already.
        UsageError: A grid has no more trials, or the sweep has secrets that are not set here, or its trials
            used a model that is another one now.
    """
    with open_store(home) as store:
        sweep = store.sweep(number)
        request = SweepRequest.from_dict(sweep.request)
        if more and request.method == "grid":
            raise UsageError(f"sweep {number} is a grid with {sweep.trials} trials; no more can be added")
        if has_driver(home, number) and (sweep.state is SweepState.RUNNING or not _leaves(home, number)):
            raise ConflictError(f"sweep {number} is already running", fix=f"conjure sweep show {number}")
        if more < 0 or more > MOST_TRIALS:
            raise UsageError(f"{option('more')} must be from 1 to {MOST_TRIALS:,}, not {more}")
        request = replace(request, spec=_with_secrets(number, request.spec))
        refuse_changed_models(home, number, [store.get(trial.run) for trial in store.trials(number)])
        trials = sweep.trials + more * request.seeds
        store.continue_sweep(number, trials=trials)
    start_driver(home, number, request, retry_failed=retry_failed)
    return replace(sweep, state=SweepState.RUNNING, trials=trials)


def _leaves(home: Home, number: int) -> bool:
    """Whether the driver of a sweep that has ended goes away, as it does soon."""
    deadline = time.monotonic() + _LEAVES_WITHIN_S
    while has_driver(home, number):
        if time.monotonic() > deadline:
            return False
        time.sleep(_BETWEEN_S)
    return True


def _with_secrets(number: int, spec: RunSpec) -> RunSpec:
    """The spec with the secret variables put back that are set here."""
    names, others = split_withheld(spec.withheld or ())
    if others:
        raise UsageError(
            f"sweep {number} has a secret in its {others[0]}, and secrets are not stored",
            hint=f"start it again, with the secret in a variable: {option('env')}, and $KEY in the command",
        )
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(
            f"sweep {number} has secrets, which are not stored: {', '.join(missing)}",
            hint=f"set {missing[0]} in the environment",
        )
    put_back = {name: os.environ[name] for name in names}
    return replace(spec, variables={**spec.variables, **put_back}, withheld=None)


def stop_sweep(home: Home, number: int) -> tuple[SweepRow, int]:
    """End a sweep, and stop its trials that go on; returns when they have ended.

    Returns:
        The sweep, and how many trials were stopped.

    Raises:
        NotFoundError: There is no such sweep.
    """
    with open_store(home) as store:
        store.sweep(number)
        store.end_sweep(number, SweepState.STOPPED)  # from here on no trial starts
        runs = going_on(store, number)
    end_runs(home, runs, STOP)
    with open_store(home) as store:
        sweep = store.sweep(number)
        with suppress(StoreError):  # the sweep is stopped all the same, and its driver tries again
            request = SweepRequest.from_dict(sweep.request)
            list(settle_trials(home, store, number, request, store.trials(number)))
        return sweep, len(runs)


def going_on(store: Database, number: int) -> list[int]:
    """The runs of a sweep that have not ended."""
    return [row.run for row in store.trials(number) if row.facts.ending is None]


class SweepLock:
    """The right to drive a sweep of a home, or to settle its trials once it has ended."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take_if_free(cls, path: Path) -> "SweepLock | None":
        """The lock, or None if somebody has it."""
        path.parent.mkdir(mode=_PRIVATE, exist_ok=True)
        for _ in range(_ATTEMPTS):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if lock_or_close(descriptor):
                return cls(descriptor)
            time.sleep(_BETWEEN_S)  # who only looks has it for a moment
        return None

    def release(self) -> None:
        """Let go; a process that was given the same lock still has it."""
        os.close(self.descriptor)


def has_driver(home: Home, number: int) -> bool:
    """Whether a sweep has a driver on this machine."""
    return is_locked(driver_lock(home, number))


def has_settler(home: Home, number: int) -> bool:
    """Whether a process on this machine writes down what trials come to that end after the sweep."""
    return is_locked(settler_lock(home, number))


def driver_lock(home: Home, number: int) -> Path:
    """What the driver of a sweep has locked."""
    return home.sweeps / f"{number}.lock"


def settler_lock(home: Home, number: int) -> Path:
    """What the process has locked that settles the trials of a sweep that has ended."""
    return home.sweeps / f"{number}.settling"


def driver_log(home: Home, number: int) -> Path:
    """What went wrong in a sweep's driver."""
    return home.sweeps / f"{number}.log"


def start_driver(home: Home, number: int, request: SweepRequest, *, retry_failed: bool = False) -> None:
    """Start the driver of a sweep, unless it has one.

    What it is asked, secrets included, goes through a pipe.

    Raises:
        ExecutorError: It cannot be started.
    """
    lock = SweepLock.take_if_free(driver_lock(home, number))
    if lock is None:
        return
    asked = json.dumps({"request": request.to_dict(secrets=True), "retry_failed": retry_failed})
    try:
        with driver_log(home, number).open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "conjure.sweeps.driver_process",
                    str(number),
                    str(lock.descriptor),
                ],
                env={**os.environ, HOME_VARIABLE: str(home.root)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock.descriptor,),
                start_new_session=True,
            )
        process.communicate(asked.encode())  # it leaves a child behind at once
    finally:
        lock.release()
    if process.returncode != 0:
        raise ExecutorError(
            f"the driver of sweep {number} could not be started (exit status {process.returncode})",
            hint=f"see {driver_log(home, number)}",
        )
