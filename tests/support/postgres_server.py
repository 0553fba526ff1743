"""A real PostgreSQL for tests: Debian's, started as an ordinary user, gone with the tests.

Main entry: `PostgresServer`. Invariant: it listens on a socket in a folder of its own, and on no network;
where it is given certificates, on this machine's own address too, over TLS only.
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
from urllib.parse import urlsplit

import psycopg

from support.certificates import Certificates
from support.ports import free_ports

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

    def __init__(
        self, folder: Path, *, durable: bool = False, certificates: Certificates | None = None
    ) -> None:
        self._folder = folder
        self._durable = durable
        self.certificates = certificates
        self.port = 5432 if certificates is None else free_ports(1)[0]
        self._bin = _binaries()
        self._databases = self._dumps = 0
        self._data = folder / "data"
        # PostgreSQL refuses to run as root, which tests in a container may be.
        self._as_user = [] if os.getuid() else ["setpriv", "--reuid", _ORDINARY, "--clear-groups"]
        self.user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else _ORDINARY

    @classmethod
    @contextmanager
    def running(
        cls, *, durable: bool = False, certificates: Certificates | None = None
    ) -> Iterator["PostgresServer"]:
        """A server while the block lasts.

        Args:
            durable: Whether a commit waits for the disk, as it does where data matters.
            certificates: What it shows to who comes over the network; nobody can without.
        """
        with tempfile.TemporaryDirectory(prefix="conjure-pg-") as name:
            server = cls(Path(name), durable=durable, certificates=certificates)
            if server._as_user:
                os.chown(name, pwd.getpwnam(_ORDINARY).pw_uid, -1)
            server._call("initdb", "-D", str(server._data), "-A", "trust", "-E", "UTF8", "--no-sync")
            rules = "local all locked scram-sha-256\nlocal all all trust\n"
            if certificates is not None:
                rules += "hostssl all locked localhost scram-sha-256\nhostssl all all localhost trust\n"
            (server._data / "pg_hba.conf").write_text(rules)
            server.start()
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = self._tls_options() or "-c listen_addresses=''"
        options += (
            f" -c unix_socket_directories='{self._folder}'"
            f" -c fsync={'on' if self._durable else 'off'} -c max_connections={_CONNECTIONS}"
        )
        self._call(
            "pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start"
        )

    def _tls_options(self) -> str:
        if self.certificates is None:
            return ""
        # The server takes a key only that its own user may read.
        for name, path in (("tls.pem", self.certificates.server), ("tls.key", self.certificates.key)):
            place = self._folder / name
            place.unlink(missing_ok=True)
            place.write_bytes(path.read_bytes())
            place.chmod(0o600)
            if self._as_user:
                os.chown(place, pwd.getpwnam(_ORDINARY).pw_uid, -1)
        files = f"-c ssl_cert_file={self._folder}/tls.pem -c ssl_key_file={self._folder}/tls.key"
        return f"-c listen_addresses=127.0.0.1 -c port={self.port} -c ssl=on {files}"

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
        return f"postgresql://{self.user}@/{database}?host={self._folder}&port={self.port}"

    def tls_address(self, address: str, host: str, authority: Path | str) -> str:
        """How a database of it is reached over TLS, for who trusts an authority."""
        database = urlsplit(address).path
        options = f"sslmode=verify-full&sslrootcert={authority}"
        return f"postgresql://{self.user}@{host}:{self.port}{database}?{options}"

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
        if not rows:
            return False
        try:
            os.kill(choose([pid for (pid,) in rows]), signal.SIGKILL)
        except ProcessLookupError:  # its client has just closed the connection
            return False
        return True

    def new_database(self) -> str:
        """An empty database; its address."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.address(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address(name)

    def dump(self, address: str) -> Path:
        """A backup of a database, as the documentation makes it."""
        self._dumps += 1
        path = self._folder / f"backup-{self._dumps}.dump"
        self._call("pg_dump", "-Fc", "--exclude-table-data=requests", "-f", str(path), "-d", address)
        return path

    def restore(self, address: str, dump: Path) -> None:
        """Make a database anew from a backup, whoever is connected."""
        name = urlsplit(address).path.removeprefix("/")
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
        self._call("pg_restore", "-d", address, str(dump))

    def execute(self, *statements: str) -> None:
        """Do something as the administrator; a role called `locked` logs in with its password only."""
        with psycopg.connect(self.address(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())
