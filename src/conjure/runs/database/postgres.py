"""The database of a home that several machines share: PostgreSQL.

Main entries: `PostgresDatabase.open`, `PostgresSession`. Invariant: nothing is kept in a session of the
server's (no prepared statement, no setting, no lock beyond a transaction), so it works behind a pooler; and
no exception of psycopg's leaves it.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, SerializationFailure
from psycopg.rows import dict_row

from conjure.core.home import Home
from conjure.core.text import valid_utf8
from conjure.errors import StoreError
from conjure.runs.database.base import DatabaseAwayError, DatabaseRefusedError
from conjure.runs.database.maintenance_statements import MaintenanceStatements
from conjure.runs.database.migrations import NewerSchemaError
from conjure.runs.database.postgres_migrations import NEWEST, schema_number
from conjure.runs.database.session import Row
from conjure.runs.database.sqlite_connection import translate_errors

_Result = TypeVar("_Result")
_LOCK = 0x636F6E6A  # of all that is done one client at a time: admission, numbers, links, the schema
_MOST_TRIES = 6
_FIRST_PAUSE_S = 0.02
_CONNECT_TIMEOUT_S = 10
# In milliseconds and seconds: a server whose machine or network is gone is missed within about 10 s. A system
# left to itself waits for a quarter of an hour, in which a supervisor could do nothing else.
_LOST_SERVER = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
# What libpq says where it cannot connect, before why; and the words in that by which causes are told.
_NO_CONNECTION = re.compile(r"^connection (?:failed|is bad): ")
_PLACE = re.compile(r"^connection to server (?:at|on socket) .*? failed: (?:FATAL: +|fe_sendauth: )?")
_OF_TLS = ("certificate", "private key file", "does not support SSL", "sslmode", " alert ")
_NOT_ALLOWED = (
    "pg_hba.conf",
    "is not permitted to log in",
    "permission denied for database",
    "authentication",
)
_NO_ROLE = re.compile(r'^role ".*" does not exist$')
_NO_DATABASE = re.compile(r'^database ".*" does not exist$')


class PostgresDatabase(MaintenanceStatements):
    """All that is known of the runs of one home (see `base.Database`)."""

    is_shared = True

    @classmethod
    def open(cls, home: Home, address: str) -> Self:
        """The database of a shared home; its schema is not changed.

        Args:
            home: Where the files of the runs are.
            address: As libpq has it, ``postgresql://user@host/name``.

        Raises:
            StoreError: It cannot be reached, or has no schema of conjure's, or an older one.
            NewerSchemaError: A newer conjure wrote it.
        """
        session = PostgresSession(home, address)
        try:
            check_schema(schema_number(session))
        except BaseException:
            session.close()
            raise
        return cls(session)

    @property
    def session(self) -> "PostgresSession":
        """Its connection, for what is known beside runs."""
        return self._open_session

    def __init__(self, session: "PostgresSession") -> None:
        super().__init__(session)
        self._open_session = session

    def server(self) -> str:
        """What the server says it is: ``PostgreSQL 17.2``."""
        version = self._session.query("SELECT version() AS version")[0]["version"]
        return " ".join(version.split()[:2])


def check_schema(number: int) -> None:
    """Refuse a database that this version cannot use.

    Raises:
        StoreError: It has no schema of conjure's, or an older one.
        NewerSchemaError: A newer conjure wrote it.
    """
    if number > NEWEST:
        raise NewerSchemaError(
            f"the team's database has schema {number}, and this version of conjure supports up to {NEWEST}:"
            " it was written by a newer version of conjure",
            hint="upgrade conjure",
        )
    if number == 0:
        raise StoreError("the team's database does not contain conjure's tables", fix="conjure team init")
    if number < NEWEST:
        raise StoreError(
            f"the team's database has schema {number}, and this version of conjure needs {NEWEST}",
            fix="conjure team upgrade",
        )


class _RepeatError(StoreError):
    """The database undid a transaction that others were in the way of; it can be done again."""


class PostgresSession:
    """A connection, made again where it was lost (see `session.Session`).

    Args:
        home: Whose database it is.
        address: As libpq has it.
    """

    def __init__(self, home: Home, address: str) -> None:
        self.home = home
        self._address = address
        self._open: psycopg.Connection[dict[str, Any]] | None = None
        self._in_transaction = False

    def query(self, statement: str, values: Iterable[Any] = ()) -> list[Row]:
        """The rows that a statement gives."""
        with self.errors_translated():
            return list(self._execute(statement, values).fetchall())

    def execute(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Change rows; how many were."""
        with self.errors_translated():
            return self._execute(statement, values).rowcount

    def _execute(self, statement: str, values: Iterable[Any]) -> psycopg.Cursor[dict[str, Any]]:
        # An empty list is no list in its SQL.
        marked = statement.replace("%", "%%").replace("?", "%s").replace("IN ()", "IN (NULL)").encode()
        return self._connection().execute(marked, tuple(map(_bindable, values)))

    def _connection(self) -> psycopg.Connection[dict[str, Any]]:
        """The connection; made anew where it was lost, but never in the middle of a transaction."""
        if self._open is not None and self._open.closed and not self._in_transaction:
            self._open = None
        if self._open is None:
            address = make_conninfo("", **{**_LOST_SERVER, **conninfo_to_dict(self._address)})
            self._open = psycopg.Connection[dict[str, Any]].connect(
                address,
                autocommit=True,
                row_factory=dict_row,
                prepare_threshold=None,
                connect_timeout=_CONNECT_TIMEOUT_S,
                application_name="conjure",
            )
        return self._open

    def transact(self, act: Callable[[], _Result]) -> _Result:
        """Do all of it or nothing; again where others were in the way."""
        for attempt in range(_MOST_TRIES):
            try:
                with self.transaction():
                    return act()
            except _RepeatError:
                if attempt == _MOST_TRIES - 1:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2**attempt * (1 + random.random()))  # else they meet again
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block that is done whole or not at all, once."""
        with self.errors_translated(), self._connection().transaction():
            self._in_transaction = True
            try:
                yield
            finally:
                self._in_transaction = False

    def lock_run(self, number: int) -> None:
        """Within a transaction: let nobody else change this run until the end of it."""
        self.query("SELECT number FROM runs WHERE number = ? FOR UPDATE", (number,))

    def lock_all(self) -> None:
        """Within a transaction: let nobody else admit runs, give numbers or change links until its end."""
        self.query("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def errors_translated(self) -> AbstractContextManager[None]:
        """A block in which errors of the database, and of files, become StoreError."""
        return _errors_translated(self.home)

    def now(self) -> float:
        """The server's clock."""
        return self.query("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")[0]["now"]

    def with_extracts(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns, with the single values that queries ask for beside the JSON that holds them."""
        found = dict(columns)
        for name, places in _EXTRACTS.items():
            if name in columns:
                stored = None if columns[name] is None else json.loads(columns[name])
                found |= {column: _inside(stored, place) for column, place in places.items()}
        return found

    def reserve_number(self) -> int:
        """Give the next number, for good."""

        def reserve() -> int:
            self.lock_all()
            rows = self.query(
                "INSERT INTO counters (name, value) VALUES ('runs', 1)"
                " ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value"
            )
            return rows[0]["value"]

        return self.transact(reserve)

    def release_number(self, number: int) -> None:
        """Take back a number that nobody used, if no later one was given."""
        self.execute("UPDATE counters SET value = value - 1 WHERE name = 'runs' AND value = ?", (number,))

    def skip_numbers(self, up_to: int) -> None:
        """Never give a number up to this one."""
        self.execute(
            "INSERT INTO counters (name, value) VALUES ('runs', ?)"
            " ON CONFLICT (name) DO UPDATE SET value = greatest(counters.value, excluded.value)",
            (up_to,),
        )

    def reconnect(self) -> None:
        """Let go of the connection; whoever needs one next makes it."""
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._open is not None:
            self._open.close()


# column with JSON -> column beside it -> where in the JSON its value is
_EXTRACTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "spec": {
        "params": ("params",),
        "after": ("after",),
        "cpus": ("resources", "cpus"),
        "gpus": ("resources", "gpus"),
        "memory_bytes": ("resources", "memory_bytes"),
    },
    "owner": {"owner_pid": ("pid",), "owner_host_id": ("host_id",), "owner_boot_id": ("boot_id",)},
    "code": {"code_tree": ("tree",)},
    "environment": {"environment_digest": ("digest",)},
    "outputs": {"outputs_size_bytes": ("size_bytes",), "outputs_removed": ("removed",)},
}


def _inside(stored: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        stored = None if stored is None else stored.get(name)
    if isinstance(stored, dict | list):
        return json.dumps(stored)
    return int(stored) if isinstance(stored, bool) else stored


def _bindable(value: Any) -> Any:
    """A value that PostgreSQL takes: text without odd bytes and NUL."""
    return valid_utf8(value).replace("\0", "\\x00") if isinstance(value, str) else value


@contextmanager
def _errors_translated(home: Home) -> Iterator[None]:
    """The one place where psycopg's and the file system's errors become ours."""
    try:
        with translate_errors(home):
            yield
    except (DeadlockDetected, SerializationFailure) as error:
        raise _RepeatError(
            "the team's database is too busy: this change was rolled back repeatedly"
        ) from error
    except psycopg.OperationalError as error:
        raise _connection_error(_first_line(error)) from error
    except InsufficientPrivilege as error:
        raise StoreError(
            f"your role in the team's database does not have the permission for this: {_first_line(error)}",
            hint="ask its owner to grant more (docs/team.md, A role for each member)",
        ) from error
    except psycopg.Error as error:
        raise StoreError(f"the team's database cannot be used: {_first_line(error)}") from error


def _connection_error(text: str) -> DatabaseAwayError:
    """What it means that no connection can be made, or that one was lost.

    Args:
        text: What libpq says: failures to connect have no code of their own.
    """
    words = _NO_CONNECTION.sub("", text)
    why = _PLACE.sub("", words)
    if _NO_DATABASE.search(why):
        return DatabaseAwayError(
            f"the team's database does not exist: {why}",
            hint="check the name in the database's address, or create it: createdb NAME",
        )
    if "password" in why:
        return DatabaseRefusedError(
            f"the team's database refuses this login: {why}",
            hint="put the password into ~/.pgpass (mode 600) or PGPASSWORD",
        )
    if any(word in why for word in _NOT_ALLOWED) or _NO_ROLE.search(why):
        return DatabaseRefusedError(
            f"the team's database refuses this login: {why}",
            hint="check the name of the role in the database's address; its administrator can grant access",
        )
    if any(word in why for word in _OF_TLS):
        return DatabaseRefusedError(
            f"the team's database cannot be used over TLS: {why}",
            hint="check sslmode and sslrootcert in the database's address, or PGSSLMODE and PGSSLROOTCERT",
        )
    return DatabaseAwayError(
        f"the team's database cannot be reached: {words}", hint="try again; nothing is lost"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
