"""What is shown of a run, in the colours of a terminal.

Main entry: `status_cell`. Invariant: the words are those of `conjure.runs.views`.
"""

from conjure.cli.tables import Cell
from conjure.runs.database.base import Lease
from conjure.runs.schema.status import RunProgress
from conjure.runs.views import Tone, status_text, status_tone

_COLOURS = {Tone.GOOD: "green", Tone.ACTIVE: "cyan", Tone.CAUTION: "yellow", Tone.BAD: "red"}


def toned(text: str, tone: Tone | None) -> Cell:
    """A cell in the colour of a tone."""
    return Cell(text, None if tone is None else _COLOURS[tone])


def status_cell(facts: RunProgress, lease: Lease | None = None) -> Cell:
    """A run's status in its colour."""
    return toned(status_text(facts, lease), status_tone(facts, lease))
