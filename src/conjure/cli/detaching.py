"""A ^C while a command waits for something that goes on without it.

Main entry: `interrupt_detaches`. Invariant: only the waiting ends, and what goes on is told.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click

from conjure.cli.render import note, on_terminal
from conjure.core.held_interrupts import interrupts_held
from conjure.runs.schema.status import EXIT_DETACHED


@contextmanager
def interrupt_detaches(what_continues: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Have a ^C in the block end the command as detached, and say what continues.

    Args:
        what_continues: Gives the lines to say.
    """
    try:
        yield
    except KeyboardInterrupt:
        if on_terminal(err=True):
            click.echo(err=True)  # the line has the terminal's ^C
        with interrupts_held():
            for line in what_continues():
                note(line)
        raise click.exceptions.Exit(EXIT_DETACHED) from None
