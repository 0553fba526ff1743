"""SQLite as the store needs it: patient with other processes, and with errors people can act on.

Main entries: `connect`, `is_damaged`, `retry_when_busy`, `translate_errors`. Invariant: no exception of
SQLite's leaves `translate_errors`.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conjure.core.home import HOME_VARIABLE, Home
from conjure.errors import StoreError

_BUSY_S = 60.0
_BUSY_TRIES = 5
_NO_ROOM = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)


def connect(path: Path) -> sqlite3.Connection:
    """The database file, in autocommit mode, with foreign keys held and a write-ahead log.

    On a full or read-only disk SQLite cannot make the files that it works with; the database can then still
    be read, as long as nobody else has it open.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        _set_up(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM or not _is_at_rest(path):
            raise
        connection = sqlite3.connect(_uri(path, "immutable=1"), uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        retry_when_busy(lambda: connection.execute("PRAGMA journal_mode = WAL"))
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens what it works with


def _is_at_rest(path: Path) -> bool:
    """Whether all that was written is in the file itself."""
    log = path.with_name(f"{path.name}-wal")
    return path.exists() and path.stat().st_size > 0 and not (log.exists() and log.stat().st_size > 0)


def _uri(path: Path, parameters: str) -> str:
    return f"{path.absolute().as_uri()}?{parameters}"


def is_damaged(path: Path) -> bool:
    """Whether a database file is there that SQLite cannot read through."""
    if not path.exists():
        return False
    try:
        connection = sqlite3.connect(_uri(path, "mode=ro"), uri=True, timeout=_BUSY_S)
        try:
            return connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def retry_when_busy(act: Callable[[], Any]) -> Any:
    """Do it again while others hold the file; SQLite itself waits only where no deadlock is possible."""
    for attempt in range(_BUSY_TRIES):
        try:
            return act()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if attempt == _BUSY_TRIES - 1:
                raise StoreError(
                    "another program has locked conjure's database"
                    f" for {_BUSY_S * _BUSY_TRIES / 60:.0f} minutes"
                ) from error
            time.sleep(0.05 * (attempt + 1))
    raise AssertionError("unreachable")


@contextmanager
def translate_errors(home: Home) -> Iterator[None]:
    """The one place where SQLite's and the file system's errors become ours.

    Raises:
        StoreError: In place of what was raised inside; only FileExistsError passes through.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(home, error) from error
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        raise StoreError(
            f"conjure's home folder {home.root} cannot be written: {error.strerror}",
            fix=f"free space or fix permissions, or set {HOME_VARIABLE} to another folder",
        ) from error


def _translated(home: Home, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"the disk that holds {home.root} is full", fix="free space, for instance with `conjure prune`"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(
            f"conjure's database is damaged ({error})",
            fix="conjure doctor --reindex (it rebuilds the database from the run folders)",
        )
    return StoreError(
        f"conjure's database {home.database} cannot be used: {error}",
        fix=f"set {HOME_VARIABLE} to a folder you can write to",
    )
