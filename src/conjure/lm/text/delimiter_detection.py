"""What separates the columns of a table: decided by many rows, outside quotes.

Main entry: `choose_delimiter`. Invariant: it only chooses; where nothing fits, the table has one column, and
no row is cut.
"""

from collections.abc import Callable, Sequence

DELIMITERS = (",", ";", "\t", "|")
_MOST_SHORT = 0.25  # of the rows may lack columns; text with stray delimiters has too many, not too few

Parse = Callable[[str], Sequence[Sequence[str]]]
"""The fields of the first rows, cut at a delimiter; rows that cannot be read are left out."""


def choose_delimiter(parse: Parse, text: str) -> str | None:
    """The delimiter with which most rows have as many fields as the first; None where no one fits.

    Args:
        parse: How to cut rows.
        text: The first rows as they are written.
    """
    scores = {delimiter: _score(parse(delimiter), delimiter, text) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: scores[delimiter])
    return best if scores[best] > 0 else None


def _score(rows: Sequence[Sequence[str]], delimiter: str, text: str) -> float:
    """How well a delimiter fits, 0 (not at all) to 1."""
    if not rows or len(rows[0]) < 2:
        return 0.0
    columns, others = len(rows[0]), [len(row) for row in rows[1:]]
    named_loosely = any(name.startswith(" ") for name in rows[0])
    if named_loosely and sum(count < columns for count in others) > _MOST_SHORT * len(others):
        return 0.0
    exact = sum(count == columns for count in others) / len(others) if others else 1.0
    # Rows that a delimiter leaves short speak against it. But names without spaces are hardly one sentence.
    # In prose a comma is followed by a space, between fields it hardly ever is.
    loose = text.count(f"{delimiter} ") / max(1, text.count(delimiter))
    return max(0.01, exact) * (1 - loose / 2)
