"""Writing down what trials came to that have ended.

Main entry: `settle_trials`. Invariant: it may be done again, and by several processes at once: a run that has
ended comes to the same each time.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from conjure.core.home import Home
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.database.base import Database
from conjure.runs.database.sweep_rows import TrialRow
from conjure.sweeps.metric_aggregation import aggregate
from conjure.sweeps.request import SweepRequest


def settle_trials(
    home: Home, store: Database, number: int, request: SweepRequest, rows: Iterable[TrialRow]
) -> Iterator[TrialRow]:
    """Write down what trials came to that have ended; each one, with its value, once it is written.

    Args:
        store: Its database.
        number: The sweep.
        request: What was asked.
        rows: The trials; of those that go on, or are settled already, nothing is written.

    Raises:
        StoreError: A database or store is away.
    """
    for row in rows:
        if row.facts.ending is None or row.settled:
            continue
        value, step = None, None
        if request.metric is not None:
            bring_streams(home, row.run)  # it may have been carried out on a cluster's node
            with suppress(OSError):  # the command may have put a folder there: no step would pass this
                value, step = aggregate(home.run_folder(row.run), request.metric, request.aggregation)
        store.settle_trial(number, row.trial, row.run, value, step)
        yield replace(row, settled=True, value=value, step=step)
