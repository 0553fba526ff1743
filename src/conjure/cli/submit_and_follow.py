"""What commands that submit a run share: submit it, follow it, end with its exit status.

Main entries: `submit_and_follow`, `follow_submission`. Invariant: with `as_json`, stdout holds one JSON
object and nothing else.
"""

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

from conjure.cli.render import MarkedLines, write_json
from conjure.core.held_interrupts import interrupts_held
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.text import error_text
from conjure.errors import StoreError
from conjure.runs.database.base import STOP
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.submission import Submission, submit
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import EXIT_DETACHED, exit_status

Announce = Callable[[int], None]


def submit_and_follow(
    home: Home, spec: RunSpec, *, background: bool, as_json: bool, interrupt_stops: bool = False
) -> int:
    """Submit the run of a spec and show it; see `follow_submission`."""
    return follow_submission(
        home,
        lambda announce: submit(home, spec, announce=announce),
        background=background,
        as_json=as_json,
        interrupt_stops=interrupt_stops,
    )


def follow_submission(
    home: Home,
    make: Callable[[Announce], Submission],
    *,
    background: bool,
    as_json: bool,
    interrupt_stops: bool = False,
) -> int:
    """Submit a run and show it as the options say.

    Args:
        make: Submits the run; it is given a function to call with the run's number.
        background: Do not follow it.
        as_json: Show one JSON object at the end (at once, in the background) and nothing else.
        interrupt_stops: The first ^C asks the run to stop and save, the second kills it, a third detaches.

    Returns:
        The exit status to end with.
    """
    announced: list[int] = []

    def announce(number: int) -> None:
        announced.append(number)
        if not as_json:
            with suppress(OSError):  # nobody can read it, which is no fault of the run's
                MarkedLines().submit(number)

    try:
        return _show(home, make(announce), background, as_json, interrupt_stops)
    except KeyboardInterrupt:
        if not announced:
            raise
        with interrupts_held():
            return _after_interrupt(home, announced[-1], as_json=as_json, stop=interrupt_stops)


def _show(home: Home, made: Submission, background: bool, as_json: bool, interrupt_stops: bool) -> int:
    """Follow a run, which goes on although nobody may be able to read what is told of it."""
    number = made.record.number
    try:
        return _follow(home, made, background, as_json, interrupt_stops)
    except BrokenPipeError:  # as of `| head`
        with suppress(OSError):  # stderr may be gone with it
            return _after_closed_output(home, number, background=background)
        return EXIT_DETACHED
    except OSError as error:
        raise StoreError(
            f"the output cannot be written: {error_text(error)}; run {number} is not affected",
            fix=f"conjure logs -f {number}",
        ) from error


def _follow(home: Home, made: Submission, background: bool, as_json: bool, interrupt_stops: bool) -> int:
    if as_json:
        return _as_json(home, made, background=background, interrupt_stops=interrupt_stops)
    lines, number = MarkedLines(), made.record.number
    if made.reused:
        lines.say("♻️ ", f"Reusing run {number}, which is identical and complete")
        return 0
    if background:
        lines.say("✨", f"View its output: {with_home(f'conjure logs -f {number}')}")
        return 0
    running = "Stop the run with ^C" if interrupt_stops else "Stop viewing logs with ^C"
    lines.say("✨", "Cancel the run with ^C" if made.record.waits_in_queue else running)
    return _following().follow_run(home, number, interrupt_stops=interrupt_stops, interrupt_cancels=True)


def _as_json(home: Home, made: Submission, *, background: bool, interrupt_stops: bool) -> int:
    record: RunRecord = made.record
    if not background and not made.reused:
        following = _following()
        try:
            record = following.wait_silently(home, record.number, interrupt_stops=interrupt_stops)
        except KeyboardInterrupt:
            with interrupts_held():
                return _after_interrupt(home, record.number, as_json=True, stop=False)
    write_json(record.to_dict() | {"reused": made.reused})
    return exit_status(record.ending) if record.ending is not None else 0


def _after_interrupt(home: Home, number: int, *, as_json: bool, stop: bool) -> int:
    """Say what a ^C that nobody took for anything else came to: a run called off, or one that goes on."""
    following = _following()
    view = following.RunView(to_stderr=as_json)
    cancelled = following.cancel(home, number)
    if cancelled is not None:
        view.cancelled(cancelled)
        return EXIT_DETACHED
    with open_store(home) as store:
        record = store.get(number)
        if record.status.is_final:
            view.say("✨", following.ended(record))
            return EXIT_DETACHED
        if stop:
            store.request_end(number, STOP)
            view.say("✨", f"Run {number} is stopping; its outputs are saved")
            return EXIT_DETACHED
    view.detached(number)
    return EXIT_DETACHED


def _after_closed_output(home: Home, number: int, *, background: bool) -> int:
    """Say on stderr that a run goes on whose reader has gone; the exit status, its own if it has ended."""
    with open_store(home) as store:
        ending = store.get(number).ending
    if ending is not None:
        return exit_status(ending)
    if background:
        return 0
    _following().RunView(to_stderr=True).detached(number)
    return EXIT_DETACHED


def _following() -> ModuleType:
    # A tenth of what submitting a run imports, which it does without in the background.
    from conjure.cli import run_view

    return run_view
