"""What is measured of pages.

Main entries: `Figures` of one tool beside others, `Row` of ours at full size.
"""

from dataclasses import dataclass

VISITS = 3  # of each page; the median counts


@dataclass
class Figures:
    """What was measured of one tool; None where it did not come so far.

    Attributes:
        failure: Why the rest is missing, if it is.
        write_s: Seconds to write all points.
        ready_s: From the command of the server to its first answer.
        first_sight_s: From that command until all runs are seen in the browser.
        table_paint_s: From the request of the table of runs to its first paint.
        table_rows_s: The same, until all rows are there.
        curves_s: From the request of a page with one metric of all runs until its curves are drawn.
        live_s: From writing a point until it is seen.
        table_bytes: What comes over the wire for the table of runs.
        curves_bytes: The same for the curves.
        foreign: Addresses beyond the origin that were asked for in one visit of both.
        errors: Errors on the console in one visit of both.
    """

    failure: str = ""
    write_s: float | None = None
    ready_s: float | None = None
    first_sight_s: float | None = None
    table_paint_s: float | None = None
    table_rows_s: float | None = None
    curves_s: float | None = None
    live_s: float | None = None
    table_bytes: int | None = None
    curves_bytes: int | None = None
    foreign: list[str] | None = None
    errors: list[str] | None = None


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        what: What was measured.
        value: How much.
        unit: ``s``, ``bytes``, or nothing for a count.
        goal: The most that it may be, if there is a goal.
    """

    what: str
    value: float
    unit: str = "s"
    goal: float | None = None
