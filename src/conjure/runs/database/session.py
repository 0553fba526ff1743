"""What a database must be able to do so that conjure's statements run on it: the seam between two dialects.

Main entry: `Session`. Invariant: statements are written once, in SQL that every dialect understands, with
``?`` for each value; what differs between dialects is a method here or a column of the view ``run_rows``.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from conjure.core.home import Home

Row = Mapping[str, Any]
_Result = TypeVar("_Result")


class Session(Protocol):
    """One connection to a database."""

    @property
    def home(self) -> Home:
        """The home whose database it is."""
        ...

    def query(self, statement: str, values: Iterable[Any] = ()) -> list[Row]:
        """The rows that a statement gives.

        Raises:
            StoreError: The database cannot be used.
        """
        ...

    def execute(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Change rows; how many were.

        Raises:
            StoreError: The database cannot be used.
        """
        ...

    def transact(self, act: Callable[[], _Result]) -> _Result:
        """Do all of it or nothing; where the database says so, do it again.

        Raises:
            StoreError: The database, or a file that belongs to the change, cannot be written.
        """
        ...

    def lock_run(self, number: int) -> None:
        """Within a transaction: let nobody else change this run until the end of it."""
        ...

    def lock_all(self) -> None:
        """Within a transaction: let nobody else admit runs, give numbers or change links until its end."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """A block that is done whole or not at all, once."""
        ...

    def errors_translated(self) -> AbstractContextManager[None]:
        """A block in which errors of the database, and of files, become StoreError."""
        ...

    def now(self) -> float:
        """The database's clock, seconds since the epoch."""
        ...

    def with_extracts(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Columns with those beside them that the database cannot take out of JSON by itself."""
        ...

    def reserve_number(self) -> int:
        """Give the next number, for good."""
        ...

    def release_number(self, number: int) -> None:
        """Take back a number that nobody used, if no later one was given."""
        ...

    def skip_numbers(self, up_to: int) -> None:
        """Never give a number up to this one."""
        ...

    def reconnect(self) -> None:
        """Read and write through a new connection: the file may be another one by now, or readable again.

        Raises:
            StoreError: There can be none; the one that there was stays.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
