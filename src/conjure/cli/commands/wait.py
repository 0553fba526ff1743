"""`conjure wait`: until runs have ended."""

import click

from conjure.cli.render import StatusLine, interrupt_detaches, write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.run_view import details, ended
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.runs.lifecycle.log_following import Ended, follow
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import exit_status


@click.command
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, required=True, metavar="NUMBER...")
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON array.")
def command(numbers: tuple[int, ...], *, as_json: bool) -> int:
    """Wait until runs have ended. The exit status is the run's own (of several, the first that is not 0).

    ^C only ends the waiting.
    """
    records = []
    for number in dict.fromkeys(numbers):
        records.append(_wait(number))
        if not as_json:
            click.echo("\n   ".join([ended(records[-1]), *details(records[-1])]))
    if as_json:
        write_json([record.to_dict() for record in records])
    statuses = [exit_status(record.ending) for record in records if record.ending is not None]
    return next((status for status in statuses if status), 0)


def _wait(number: int) -> RunRecord:
    log = with_home(f"conjure logs -f {number}")
    continues = f"Run {number} continues; view its log: {log}"
    with interrupt_detaches(lambda: [continues]), StatusLine() as line:
        for event in follow(Home.from_environment(), number):
            if isinstance(event, Ended):
                return event.record
            line.show(f"waiting for run {number}")
    raise AssertionError("a followed run ends")
