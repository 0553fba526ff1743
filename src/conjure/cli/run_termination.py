"""What `stop` and `kill` share: ask, wait, say how it went.

Main entry: `show_ending`.
"""

from collections.abc import Iterator, Sequence

import click

from conjure.cli.render import StatusLine, interrupt_detaches, write_json
from conjure.cli.run_view import ended, hints
from conjure.core.home import Home
from conjure.runs.database.base import STOP
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import end_runs
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import RunStatus


def show_ending(numbers: Sequence[int], what: str, *, as_json: bool) -> None:
    """End runs and show what became of them."""
    home, doing = Home.from_environment(), "stopping" if what == STOP else "killing"

    def tick(waiting: Sequence[int]) -> None:
        line.show(f"{doing} run {', '.join(map(str, waiting))}")

    with interrupt_detaches(lambda: _so_far(home, numbers)), StatusLine() as line:
        results = end_runs(home, numbers, what, tick=tick)
    if as_json:
        write_json([record.to_dict() for record, _ in results])
        return
    for record, was_going_on in results:
        click.echo(_outcome(record, was_going_on))
        if record.status is RunStatus.STOPPED:
            for hint in hints(record):
                click.echo(hint)


def _so_far(home: Home, numbers: Sequence[int]) -> Iterator[str]:
    """What has become of each run by now."""
    with open_store(home) as store:
        for number in numbers:
            record = store.get(number)
            if record.status.is_final:
                yield ended(record)
            elif store.end_request(number) is not None:
                yield f"Run {number} was asked to end, and has not ended yet"
            else:
                yield f"Run {number} continues; it was not asked to end"


def _outcome(record: RunRecord, was_going_on: bool) -> str:
    if not was_going_on:
        return f"Run {record.number} had already ended: {record.status}"
    if not record.status.is_final:
        return f"Run {record.number} is on another machine, which was asked to end it"
    return ended(record)
