"""What `archive` and `unarchive` share.

Main entry: `set_archived`. Invariant: either all of the runs are put away or none is.
"""

from collections.abc import Sequence

import click

from conjure.core.home import Home
from conjure.errors import ConflictError
from conjure.runs.artifacts.team_transfer import export_records
from conjure.runs.lifecycle.open_store import open_store


def set_archived(numbers: Sequence[int], *, archived: bool) -> None:
    """Put runs away, or take them out again.

    Raises:
        NotFoundError: One of them does not exist.
        ConflictError: One to be put away still goes on.
    """
    home = Home.from_environment()
    with open_store(home) as store:
        for record in map(store.get, numbers):
            if archived and not record.status.is_final:
                raise ConflictError(
                    f"run {record.number} is {record.status}; only ended runs can be archived",
                    fix=f"conjure stop {record.number}",
                )
        for number in dict.fromkeys(numbers):
            store.set_archived(number, archived=archived)
            click.echo(f"Run {number}: {'archived' if archived else 'no longer archived'}")
    export_records(home)
