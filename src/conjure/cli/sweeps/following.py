"""Following a sweep to its end: a table that is rewritten on a terminal, whole lines elsewhere.

Main entry: `follow_sweep`. Invariant: looking on changes nothing; a ^C ends the looking, not the sweep.
"""

import shutil
import time

import click

from conjure.cli.render import note, on_terminal, write_json
from conjure.cli.sweeps.view import closing_lines, headline, show_sweep, trial_line, trial_table
from conjure.cli.tables import drawn_table
from conjure.core.home import Home
from conjure.runs.database.base import Database
from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.lifecycle.ownership import open_store
from conjure.runs.schema.status import EXIT_DETACHED
from conjure.sweeps.view import SweepView, look_at_sweep

_LOOK_EVERY_S = 0.5
_LINES_AROUND = 8


def follow_sweep(home: Home, number: int, *, background: bool, as_json: bool) -> int:
    """Show a sweep until it has ended; the exit status to end with.

    Args:
        home: Where conjure keeps things.
        number: The sweep.
        background: Only say that it goes on.
        as_json: Print one JSON object at the end, and nothing before.
    """
    if background and not as_json:
        note(f"Show it: conjure sweep show {number}")
        return 0
    try:
        with open_store(home) as store:
            view = look_at_sweep(home, store, number) if background else _watch(home, store, number, as_json)
    except KeyboardInterrupt:
        note(
            f"\nSweep {number} continues; to show it: conjure sweep show {number};"
            f" to stop it: conjure sweep stop {number}"
        )
        return EXIT_DETACHED
    if as_json:
        write_json(view.to_dict())
    elif not view.is_abandoned and on_terminal():
        for line in closing_lines(view):
            click.echo(line)
    else:
        show_sweep(view)
    return 0 if view.is_running or view.row.state is SweepState.COMPLETE else 1


def _watch(home: Home, store: Database, number: int, quiet: bool) -> SweepView:
    if on_terminal() and not quiet:
        return _watch_table(home, store, number)
    told: set[int] = set()
    while True:
        view = look_at_sweep(home, store, number)
        for trial in view.settled_trials if not quiet else ():
            if trial.run not in told:
                told.add(trial.run)
                click.echo(trial_line(view, trial), err=True)
        if view.is_over:
            return view
        time.sleep(_LOOK_EVERY_S)


def _watch_table(home: Home, store: Database, number: int) -> SweepView:
    # A tenth of a second to import, which only a terminal has use for.
    from rich.console import Group
    from rich.live import Live

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            view = look_at_sweep(home, store, number)
            rows = max(1, shutil.get_terminal_size().lines - _LINES_AROUND)
            table = trial_table(view, most=None if view.is_over else rows)
            live.update(Group(headline(view), "", drawn_table(*table)))
            live.refresh()
            if view.is_over:
                return view
            time.sleep(_LOOK_EVERY_S)
