"""SQLite as conjure needs it: patient with other processes, and with errors people can act on.

Main entries: `connect`, `connect_to_write`, `is_damaged`, `files_of`, `retry_when_busy`, `translate_errors`.
Invariant: no exception of SQLite's leaves `translate_errors`.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.text import error_text
from conjure.core.units import format_duration
from conjure.errors import StoreError
from conjure.runs.database.migrations import has_known_schema
from conjure.runs.database.statements import damaged

_BUSY_S = 60.0
_BUSY_TRIES = 5
_NO_ROOM = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NO_ROOM_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_UNDECODABLE = "Could not decode"  # of the sqlite3 module's own errors, which have no code


def connect(path: Path, *, must_exist: bool = False) -> sqlite3.Connection:
    """The database file, in autocommit mode, with foreign keys held and a write-ahead log.

    On a full or read-only disk SQLite cannot make the files that it works with; the database can then still
    be read, as long as nobody else has it open.

    Args:
        path: The file.
        must_exist: Fail where it is not there, rather than make it.
    """
    try:
        return connect_to_write(path, must_exist=must_exist)
    except sqlite3.OperationalError as error:
        if _code(error) not in _NO_ROOM or not _is_at_rest(path):
            raise
    connection = sqlite3.connect(_uri(path, "immutable=1"), uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def connect_to_write(path: Path, *, must_exist: bool) -> sqlite3.Connection:
    """As `connect`, but never so that the file can only be read, as it is at this moment."""
    address = _uri(path, "mode=rw" if must_exist else "mode=rwc")
    connection = sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        _set_up(connection)
    except BaseException:
        connection.close()
        raise
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


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the sqlite3 module's own, which has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _tells_of_damage(error: sqlite3.Error) -> bool:
    # A changed byte in a name within the schema makes it "no such column", which is code 1 alone.
    own = _code(error) == 0 and str(error).startswith(_UNDECODABLE)
    return own or _code(error) in (*_DAMAGE, sqlite3.SQLITE_ERROR)


def is_damaged(path: Path) -> bool:
    """Whether a database file is there that SQLite cannot read through, or whose schema was changed."""
    if not path.is_file():
        return False
    try:
        connection = sqlite3.connect(_uri(path, "mode=ro"), uri=True, timeout=_BUSY_S)
        try:
            if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                return True
            return not has_known_schema(connection)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        return _tells_of_damage(error)
    except UnicodeDecodeError:
        return True  # what SQLite would say names something that is not text any more


def files_of(path: Path) -> list[Path]:
    """The files that a database lies in, its own last: until that is moved, a crash changes nothing."""
    return [path.with_name(f"{path.name}{ending}") for ending in ("-wal", "-shm", "")]


def retry_when_busy(act: Callable[[], Any]) -> Any:
    """Do it again while others hold the file; SQLite itself waits only where no deadlock is possible."""
    for attempt in range(_BUSY_TRIES):
        try:
            return act()
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if attempt == _BUSY_TRIES - 1:
                tried = format_duration(_BUSY_S * _BUSY_TRIES)
                raise StoreError(f"another program has locked conjure's database for {tried}") from error
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
    except UnicodeDecodeError as error:
        raise damaged(error) from error
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        if error.errno in NO_ROOM_ERRORS:
            raise full_disk(home) from error
        raise _not_writable(home, error_text(error)) from error


def full_disk(home: Home) -> StoreError:
    """What to say where nothing more can be written: of the two things a disk can lack, the one it does."""
    what = "has no inodes left: it contains as many files as it can" if _lacks_inodes(home) else "is full"
    return StoreError(f"the disk that contains {home.root} {what}", fix="conjure prune")


def _lacks_inodes(home: Home) -> bool:
    disk = _disk_of(home)
    return disk is not None and disk.f_files > 0 and disk.f_favail == 0


def _is_full(home: Home) -> bool:
    disk = _disk_of(home)
    return disk is not None and (disk.f_bavail == 0 or _lacks_inodes(home))


def _disk_of(home: Home) -> os.statvfs_result | None:
    try:
        return os.statvfs(home.root)
    except OSError:
        return None


def _not_writable(home: Home, why: str) -> StoreError:
    return StoreError(
        f"conjure's home folder {home.root} cannot be written: {why}",
        hint=f"free space or fix permissions there, or set {HOME_VARIABLE} to another folder",
    )


def _translated(home: Home, error: sqlite3.Error) -> StoreError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL or (code in _NO_ROOM and _is_full(home)):
        return full_disk(home)
    if _tells_of_damage(error):
        return damaged(error)
    if code == sqlite3.SQLITE_READONLY:
        return _not_writable(home, os.strerror(errno.EROFS if _is_read_only(home) else errno.EACCES))
    return StoreError(
        f"conjure's database {home.database} cannot be used: {error}",
        hint=f"set {HOME_VARIABLE} to a folder you can write to",
    )


def _is_read_only(home: Home) -> bool:
    disk = _disk_of(home)
    return disk is not None and bool(disk.f_flag & os.ST_RDONLY)
