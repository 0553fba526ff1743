"""Which database a home has: its own file, or one that it shares.

Main entries: `open_database`, `share`. Invariant: a home that shares a database says so in a file of its own,
which holds no password; in the place of the SQLite file it then has one that older versions refuse.
"""

import sqlite3
from typing import TYPE_CHECKING

from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, read_team, write_team
from conjure.errors import StoreError
from conjure.installation import install_command
from conjure.runs.database.base import Database
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sqlite_connection import files_of

if TYPE_CHECKING:
    from conjure.runs.database.postgres import PostgresDatabase

_NOT_FOR_OLD_VERSIONS = 1_000_000


def open_database(home: Home, *, must_exist: bool = False) -> Database:
    """The database of a home.

    Args:
        must_exist: Make nothing: for who comes back to a home that may have been removed meanwhile.

    Raises:
        StoreError: It cannot be used, or a newer conjure wrote it.
    """
    address = shared_address(home)
    if address is None:
        return SqliteDatabase.open(home, must_exist=must_exist)
    return _postgres_database().open(home, address)


def import_database(home: Home) -> None:
    """Import what `open_database` needs, for who waits for something else now.

    Raises:
        StoreError: It is not installed, or it cannot be told which database the home has.
    """
    if shared_address(home) is not None:
        _postgres_database()


def _postgres_database() -> "type[PostgresDatabase]":
    try:
        # Of the extra `team`; a home of one machine needs none of it.
        from conjure.runs.database.postgres import PostgresDatabase
    except ModuleNotFoundError as error:
        raise StoreError(
            "this home keeps its records in PostgreSQL, and psycopg is not installed",
            fix=install_command("team"),
        ) from error
    return PostgresDatabase


def shared_address(home: Home) -> str | None:
    """The address, without a password, of the database that a home shares; None for one with its own file.

    Raises:
        StoreError: The file that says so cannot be read.
    """
    team = read_team(home)
    return None if team is None else team.database


def share(home: Home, team: TeamSettings) -> None:
    """Have a home use the database of a team from now on; its own file is gone.

    Raises:
        OSError: It cannot be written.
    """
    write_team(home, team)
    _remove_file(home)
    connection = sqlite3.connect(home.database)
    with connection:
        connection.execute("CREATE TABLE schema_migrations (number INTEGER, name TEXT, taken_at TEXT)")
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, 'records are in a shared database', '')",
            (_NOT_FOR_OLD_VERSIONS,),
        )
    connection.close()


def stop_sharing(home: Home) -> None:
    """Have a home use a file of its own again; whoever opens it next rebuilds it from the run folders.

    Raises:
        OSError: It cannot be written.
    """
    _remove_file(home)
    home.team_file.unlink()


def _remove_file(home: Home) -> None:
    for part in files_of(home.database):
        part.unlink(missing_ok=True)
