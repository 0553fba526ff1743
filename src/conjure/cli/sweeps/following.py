"""Following a sweep to its end: a table that is rewritten on a terminal, whole lines elsewhere.

Main entry: `follow_sweep`. Invariant: looking on changes nothing; a ^C ends the looking, not the sweep.
"""

import shutil
import time

import click

from conjure.cli.render import cut, note, on_terminal, write_json
from conjure.cli.sweeps.view import closing_lines, headline, show_sweep, trial_line, trial_table
from conjure.cli.tables import drawn_table
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.quoting import printable
from conjure.runs.database.base import Database
from conjure.runs.database.sweep_rows import SweepState
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.status import EXIT_DETACHED
from conjure.sweeps.view import SweepView, look_at_sweep

_LOOK_EVERY_S = 0.5
_LINES_AROUND = 8


def follow_sweep(home: Home, number: int, *, background: bool, as_json: bool) -> int:
    """Show a sweep until it has ended; the exit status to end with.

    Args:
        number: The sweep.
        background: Only say that it goes on.
        as_json: Print one JSON object at the end, and nothing before.
    """
    if background and not as_json:
        note(f"Show it: {with_home(f'conjure sweep show {number}')}")
        return 0
    try:
        with open_store(home) as store:
            view = look_at_sweep(home, store, number) if background else _watch(home, store, number, as_json)
    except KeyboardInterrupt:
        note(
            f"\nSweep {number} continues; to show it: {with_home(f'conjure sweep show {number}')};"
            f" to stop it: {with_home(f'conjure sweep stop {number}')}"
        )
        return EXIT_DETACHED
    if as_json:
        write_json(view.to_dict())
    elif not view.is_abandoned and on_terminal():
        for line in closing_lines(view):
            click.echo(line)
    else:
        show_sweep(view)
    goes_on = view.is_running and not view.is_abandoned
    return 0 if goes_on or view.row.state is SweepState.COMPLETE else 1


def _watch(home: Home, store: Database, number: int, quiet: bool) -> SweepView:
    if on_terminal() and not quiet:
        return _watch_table(home, store, number)
    told: set[int] = set()
    while True:
        view = look_at_sweep(home, store, number)
        for trial in view.settled_trials if not quiet else ():
            if trial.run not in told:
                told.add(trial.run)
                click.echo(printable(trial_line(view, trial)), err=True)
        if view.is_over:
            return view
        time.sleep(_LOOK_EVERY_S)


def _watch_table(home: Home, store: Database, number: int) -> SweepView:
    shown = 0
    while True:
        view = look_at_sweep(home, store, number)
        width, height = shutil.get_terminal_size()
        table = trial_table(view, most=None if view.is_over else max(1, height - _LINES_AROUND))
        lines = [cut(headline(view), width), "", *drawn_table(*table)]
        above = f"\x1b[{shown}F\x1b[J" if shown else ""  # to where the last table begins, and clear it
        click.echo(above + "\n".join(lines))
        shown = len(lines)
        if view.is_over:
            return view
        time.sleep(_LOOK_EVERY_S)
