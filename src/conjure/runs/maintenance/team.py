"""A home whose records several machines share.

Main entries: `init`, `upgrade_schema`, `leave`, `status`. Invariant: the run folders stay where they are and
hold every record, so a home can go over to a shared database, and back, without losing a run.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from conjure.core.home import Home
from conjure.core.text import plural
from conjure.errors import ConflictError, StoreError, UsageError, option
from conjure.runs.database.base import RunFilter
from conjure.runs.database.opening import open_database, share, shared_address, stop_sharing
from conjure.runs.database.postgres import PostgresDatabase, PostgresSession
from conjure.runs.database.postgres_migrations import NEWEST, schema_number, upgrade
from conjure.runs.database.record_files import folder_numbers

_SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class TeamStatus:
    """How a home and the database it shares stand.

    Attributes:
        database: Its address.
        server: What the server says it is.
        schema: The schema it has.
        runs: How many runs it holds.
        active: How many of them have not ended.
    """

    database: str
    server: str
    schema: int
    runs: int
    active: int


def init(home: Home, address: str) -> TeamStatus:
    """Have a home keep its records in PostgreSQL; runs that it has keep their numbers.

    Args:
        home: The home, in a folder that every machine sees at the same path.
        address: ``postgresql://user@host/database``, without a password.

    Raises:
        UsageError: The address is none, or has a password in it.
        ConflictError: The home shares a database already, a run is active, or the database has other runs.
        StoreError: The database cannot be reached, or not be changed.
    """
    _refuse_address(address)
    if shared_address(home) is not None:
        raise ConflictError("this home shares a database already", fix="conjure team status")
    home.create()
    _refuse_active(home)
    _upgrade(home, address)
    with PostgresDatabase.open(home, address) as database:
        foreign = database.numbers() - set(folder_numbers(home.runs))
        if foreign:
            raise ConflictError(
                f"the database holds {plural(len(foreign), 'run')} of another home;"
                " each home needs a database of its own",
                hint="create one: createdb NAME",
            )
        database.reindex()
        share(home, address)
    return status(home)


def upgrade_schema(home: Home) -> tuple[int, int]:
    """Bring the shared database to the schema of this version.

    Returns:
        The schema before and after.

    Raises:
        StoreError: It cannot be reached or changed, or the home shares none.
    """
    return _upgrade(home, _shared_address(home))


def _upgrade(home: Home, address: str) -> tuple[int, int]:
    session = PostgresSession(home, address)
    try:
        return upgrade(session), schema_number(session)
    finally:
        session.close()


def leave(home: Home) -> None:
    """Have a home keep its records in a file of its own again, rebuilt from the run folders.

    Raises:
        ConflictError: A run is active.
        StoreError: The home shares no database, or cannot be written.
    """
    _shared_address(home)
    _refuse_active(home)
    stop_sharing(home)
    open_database(home).close()


def status(home: Home) -> TeamStatus:
    """How the home and the database it shares stand.

    Raises:
        StoreError: The home shares none, or it cannot be reached.
    """
    address = _shared_address(home)
    with PostgresDatabase.open(home, address) as database:
        runs, active = database.count(RunFilter(archived=True)), len(database.active_numbers())
        return TeamStatus(address, database.server(), NEWEST, runs, active)


def _shared_address(home: Home) -> str:
    address = shared_address(home)
    if address is None:
        raise StoreError("this home keeps its records in a file of its own", fix="conjure team init --help")
    return address


def _refuse_active(home: Home) -> None:
    with open_database(home) as database:
        active = sorted(database.active_numbers())
    if active:
        raise ConflictError(
            f"{plural(len(active), 'run')} {'has' if len(active) == 1 else 'have'} not ended:"
            f" {', '.join(map(str, active[:5]))}",
            fix=f"conjure wait {active[0]}",
        )


def _refuse_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"{option('database')} {_without_password(address)!r} is not an address of PostgreSQL",
            fix=option("database", "postgresql://USER@HOST/DATABASE"),
        )
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise UsageError(
            f"{option('database')} {_without_password(address)!r} has a password in it, which every process"
            " list would show",
            hint="put it into ~/.pgpass (mode 600) or the variable PGPASSWORD, and leave it out here",
        )


def _without_password(address: str) -> str:
    address = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address)
    return re.sub(r"(password=)[^&]*", r"\1***", address)
