"""A real PostgreSQL for tests: Debian's, started as an ordinary user, gone with the tests.

Main entry: `PostgresServer`. Invariant: it listens on a socket in a folder of its own, and on no network.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

_ORDINARY = "nobody"
_CONNECTIONS = 600  # for a hundred runs at once, and those who ask for them


def _binaries() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        raise AssertionError("these tests need PostgreSQL: apt-get install postgresql")
    return folders[-1]


class PostgresServer:
    """A server in a folder of its own; the context manager starts and ends it."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable
        self._bin = _binaries()
        self._databases = 0
        self._data = folder / "data"
        # PostgreSQL refuses to run as root, which tests in a container may be.
        self._as_user = [] if os.getuid() else ["setpriv", "--reuid", _ORDINARY, "--clear-groups"]
        self.user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else _ORDINARY

    @classmethod
    @contextmanager
    def running(cls, *, durable: bool = False) -> Iterator["PostgresServer"]:
        """A server while the block lasts.

        Args:
            durable: Whether a commit waits for the disk, as it does where data matters.
        """
        with tempfile.TemporaryDirectory(prefix="conjure-pg-") as name:
            server = cls(Path(name), durable=durable)
            if server._as_user:
                os.chown(name, pwd.getpwnam(_ORDINARY).pw_uid, -1)
            server._call("initdb", "-D", str(server._data), "-A", "trust", "-E", "UTF8", "--no-sync")
            (server._data / "pg_hba.conf").write_text("local all locked scram-sha-256\nlocal all all trust\n")
            server.start()
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
            f" -c fsync={'on' if self._durable else 'off'} -c max_connections={_CONNECTIONS}"
        )
        self._call(
            "pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        """End it, whoever is connected."""
        self._call("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, self._bin / program, *arguments],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    @property
    def pid(self) -> int:
        """The process that all others of the server are below."""
        return int((self._data / "postmaster.pid").read_text().partition("\n")[0])

    def address(self, database: str = "postgres") -> str:
        """How a database of it is reached."""
        return f"postgresql://{self.user}@/{database}?host={self._folder}"

    def kill_connection(self, database: str, choose: Callable[[Sequence[int]], int]) -> bool:
        """SIGKILL to the server's process for one of conjure's connections; False if there is none.

        The server then closes all connections, undoes what was not committed, and is back in a moment.

        Args:
            database: Address of the database.
            choose: Which of the processes.
        """
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'conjure'"
                " AND datname = current_database() ORDER BY pid"
            ).fetchall()
        if rows:
            os.kill(choose([pid for (pid,) in rows]), signal.SIGKILL)
        return bool(rows)

    def new_database(self) -> str:
        """An empty database; its address."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.address(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address(name)

    def execute(self, *statements: str) -> None:
        """Do something as the administrator; a role called `locked` logs in with its password only."""
        with psycopg.connect(self.address(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())
