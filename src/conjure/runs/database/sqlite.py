"""The database of a home on one machine: a file of SQLite's.

Main entry: `SqliteDatabase.open`. Invariant: whoever uses it never sees "database is locked", nor any
exception of SQLite's.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, TypeVar, cast

from conjure.core.home import Home
from conjure.core.text import valid_utf8
from conjure.runs.database.maintenance_statements import MaintenanceStatements
from conjure.runs.database.migrations import NEWEST, lacks_runs, mark_complete, migrate
from conjure.runs.database.session import Row
from conjure.runs.database.sqlite_connection import (
    connect,
    connect_to_write,
    retry_when_busy,
    translate_errors,
)

_Result = TypeVar("_Result")


class SqliteDatabase(MaintenanceStatements):
    """All that is known of the runs of one home (see `base.Database`)."""

    @classmethod
    def open(cls, home: Home, *, clock: Callable[[], float] = time.time, must_exist: bool = False) -> Self:
        """The database of a home, made or brought up to date if need be.

        One that is missing beside existing run folders is rebuilt from them; where that is cut off, whoever
        opens it next does it again.

        Args:
            clock: Seconds since the epoch.
            must_exist: Make nothing: for who comes back to a home that may have been removed meanwhile.

        Raises:
            StoreError: The home cannot be used, the file is damaged, or a newer conjure wrote it.
        """
        if not must_exist:
            home.create()
        with translate_errors(home):
            connection = connect(home.database, must_exist=must_exist)
            database = cls(SqliteSession(home, connection, clock))
            try:
                database._bring_up_to_date(connection)
            except BaseException:
                database.close()
                raise
            return database

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        before = retry_when_busy(lambda: migrate(connection))
        self.was_upgraded = 0 < before < NEWEST
        if lacks_runs(connection):
            if self.home.runs.is_dir():
                self.reindex()
            retry_when_busy(lambda: mark_complete(connection))

    def forbid_writing(self) -> None:
        """Refuse every change from now on: for who only looks."""
        self._session.execute("PRAGMA query_only = ON")


class SqliteSession:
    """One connection to the file (see `session.Session`).

    Args:
        home: Whose database it is.
        connection: In autocommit mode.
        clock: Seconds since the epoch.
    """

    def __init__(self, home: Home, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.home = home
        self.connection = connection
        self._clock = clock

    def query(self, statement: str, values: Iterable[Any] = ()) -> list[Row]:
        """The rows that a statement gives."""
        with translate_errors(self.home):
            bound = tuple(map(_bindable, values))
            # What sqlite3.Row lacks of a mapping, nobody asks it for.
            rows = retry_when_busy(lambda: self.connection.execute(statement, bound).fetchall())
            return cast("list[Row]", rows)

    def execute(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Change rows; how many were."""
        with translate_errors(self.home):
            bound = tuple(map(_bindable, values))
            return retry_when_busy(lambda: self.connection.execute(statement, bound)).rowcount

    def transact(self, act: Callable[[], _Result]) -> _Result:
        """Do all of it or nothing."""
        with self.transaction():
            return act()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block that is done whole or not at all, and that nobody else's comes in between."""
        with translate_errors(self.home):
            retry_when_busy(lambda: self.connection.execute("BEGIN IMMEDIATE"))
            try:
                yield
                retry_when_busy(lambda: self.connection.execute("COMMIT"))
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def lock_run(self, number: int) -> None:
        """Nothing: a transaction has the whole file to itself."""

    def lock_all(self) -> None:
        """Nothing: a transaction has the whole file to itself."""

    def errors_translated(self) -> AbstractContextManager[None]:
        """A block in which errors of the database, and of files, become StoreError."""
        return translate_errors(self.home)

    def now(self) -> float:
        """The machine's clock: a file has none of its own."""
        return self._clock()

    def with_extracts(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns as they are: the view takes single values out of JSON."""
        return dict(columns)

    def reserve_number(self) -> int:
        """Give the next number, for good."""
        return self.transact(self._reserve_number)

    def _reserve_number(self) -> int:
        number = (self._given() or 0) + 1
        self.skip_numbers(number)
        return number

    def release_number(self, number: int) -> None:
        """Take back a number that nobody used, if no later one was given."""
        self.execute("UPDATE sqlite_sequence SET seq = seq - 1 WHERE name = 'runs' AND seq = ?", (number,))

    def skip_numbers(self, up_to: int) -> None:
        """Never give a number up to this one."""
        given = self._given()
        if given is None:
            self.execute("INSERT INTO sqlite_sequence VALUES ('runs', ?)", (up_to,))
        elif given < up_to:
            self.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'runs' AND seq < ?", (up_to, up_to))

    def _given(self) -> int | None:
        """The highest number that was ever given; None before the first."""
        rows = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        return rows[0]["seq"] if rows else None

    def reconnect(self) -> None:
        """Open the file anew, to be read and written."""
        with translate_errors(self.home):
            opened = connect_to_write(self.home.database, must_exist=True)
        before, self.connection = self.connection, opened
        before.close()

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()


def _bindable(value: Any) -> Any:
    """A value that SQLite takes: names that are not UTF-8 show their odd bytes."""
    return valid_utf8(value) if isinstance(value, str) else value
