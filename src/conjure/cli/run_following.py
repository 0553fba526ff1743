"""What commands that submit a run share: submit it, follow it, end with its exit status.

Main entry: `follow_submission`. Invariant: with `as_json`, stdout holds one JSON object and nothing else.
"""

from collections.abc import Callable

from conjure.cli.render import write_json
from conjure.cli.transcript import Transcript, follow_run
from conjure.core.home import Home
from conjure.runs.lifecycle.log_following import wait_for_end
from conjure.runs.lifecycle.submission import Submission
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import EXIT_DETACHED, exit_status

Announce = Callable[[int], None]


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
        home: Where conjure keeps things.
        make: Submits the run; it is given a function to call with the run's number.
        background: Do not follow it.
        as_json: Show one JSON object at the end (at once, in the background) and no transcript.
        interrupt_stops: The first ^C asks the run to stop and save, the second kills it, a third detaches.

    Returns:
        The exit status to end with.
    """
    transcript = Transcript()
    made = make(_say_nothing if as_json else transcript.submit)
    if as_json:
        return _as_json(home, made, background=background)
    number = made.record.number
    if made.reused:
        transcript.say("♻️ ", f"Run {number} is identical and completed; nothing was run")
        return 0
    if background:
        transcript.say("✨", f"View its output: conjure logs -f {number}")
        return 0
    transcript.say("✨", "Stop viewing logs with ^C")
    return follow_run(home, number, interrupt_stops=interrupt_stops)


def _as_json(home: Home, made: Submission, *, background: bool) -> int:
    record: RunRecord = made.record
    if not background and not made.reused:
        try:
            record = wait_for_end(home, record.number)
        except KeyboardInterrupt:
            Transcript(to_stderr=True).detached(record.number)
            return EXIT_DETACHED
    write_json(record.to_dict() | {"reused": made.reused})
    return exit_status(record.ending) if record.ending is not None else 0


def _say_nothing(_number: int) -> None:
    pass
