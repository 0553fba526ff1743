"""How a person says a text is written, where its own looks do not tell: kind, delimiter, header, quotes.

Main entry: `ReadOptions`. Invariant: one that exists can be followed.
"""

from dataclasses import dataclass

from conjure.lm.bounds import value_fault
from conjure.lm.text.encodings import check_encoding

QUOTINGS = ("auto", "standard", "none")

# File kind -> what files of it are named.
ENDINGS = {
    "txt": ("txt",),
    "csv": ("csv",),
    "tsv": ("tsv",),
    "jsonl": ("jsonl", "ndjson"),
    "json": ("json",),
    "parquet": ("parquet",),
}
KINDS = tuple(ENDINGS)
TABLE_KINDS = tuple(kind for kind in KINDS if kind != "txt")
_SPELLED = {r"\t": "\t", "tab": "\t"}


@dataclass(frozen=True)
class ReadOptions:
    r"""What was said about the files; the defaults say nothing.

    Attributes:
        format: Kind of file, one of `KINDS`, whatever the names end in; None goes by the names.
        delimiter: What separates columns (``\t`` or ``tab`` for a tab); None looks at the rows.
        header: Whether the first row of a CSV or TSV names the columns; else they are 1, 2, 3, …
        quoting: ``standard``: fields may be quoted, and then hold line ends. ``none``: quotes are text.
            ``auto``: standard for CSV, or as its first rows are written; in a TSV, where quotes balance
            within a row.
        encoding: Of text files without a byte order mark; None is UTF-8.
    """

    format: str | None = None
    delimiter: str | None = None
    header: bool = True
    quoting: str = "auto"
    encoding: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if self.format is not None and self.format not in KINDS:
            raise value_fault("format", f"is {self.format!r}; allowed: {', '.join(KINDS)}")
        if self.quoting not in QUOTINGS:
            raise value_fault("quoting", f"is {self.quoting!r}; allowed: {', '.join(QUOTINGS)}")
        if self.encoding is not None:
            object.__setattr__(self, "encoding", check_encoding(self.encoding))
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", _one_character(self.delimiter))


def _one_character(typed: str) -> str:
    delimiter = _SPELLED.get(typed, typed)
    if len(delimiter) != 1 or delimiter in '"\r\n\0\ufeff':
        raise value_fault(
            "delimiter",
            rf"must be one character (such as ; or |; \t is a tab) and no quote, not {typed!r}",
        )
    return delimiter
