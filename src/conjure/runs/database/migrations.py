"""The schema of a home's own SQLite file, as numbered steps forward.

Main entries: `migrate`, `has_known_schema`, `lacks_runs`; `Migration` is what a step is, in PostgreSQL too.
Invariant: a step and the record that it was taken are one transaction, so a crash leaves the file before the
step or after it; a step that was released is never edited, only followed.
"""

import sqlite3
import time
from typing import NamedTuple

from conjure.core.text import to_iso
from conjure.errors import StoreError


class Migration(NamedTuple):
    """One step forward: statements that run together with the record of them."""

    number: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "runs",
        (
            """
            CREATE TABLE runs (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                kind TEXT NOT NULL,
                command TEXT NOT NULL,
                description TEXT NOT NULL,
                requested_at TEXT,
                queued_at TEXT,
                building_at TEXT,
                mounting_at TEXT,
                running_at TEXT,
                saving_at TEXT,
                ended_at TEXT,
                end_reason TEXT,
                exit_code INTEGER,
                signal INTEGER,
                message TEXT,
                command_s REAL,
                total_s REAL,
                end_request TEXT,
                gpu_ids TEXT NOT NULL DEFAULT '[]',
                parent INTEGER,
                rerun_of INTEGER,
                archived_at TEXT,
                identity TEXT,
                owner TEXT,
                outputs TEXT,
                usage TEXT,
                mounts TEXT NOT NULL DEFAULT '[]',
                code TEXT,
                spec TEXT NOT NULL,
                environment TEXT
            )
            """,
            "CREATE INDEX runs_active ON runs (number) WHERE end_reason IS NULL",
            "CREATE INDEX runs_identity ON runs (identity) WHERE identity IS NOT NULL",
        ),
    ),
    Migration(
        2,
        "labels, mounted runs, links",
        (
            """
            CREATE TABLE run_labels (
                run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
                label TEXT NOT NULL,
                PRIMARY KEY (run, label)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX run_labels_by_label ON run_labels (label)",
            """
            CREATE TABLE run_sources (
                run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
                source TEXT NOT NULL,
                source_run INTEGER,
                PRIMARY KEY (run, source)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX run_sources_by_source_run ON run_sources (source_run)",
            """
            CREATE TABLE links (
                name TEXT PRIMARY KEY,
                resource TEXT NOT NULL,
                created_at TEXT NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
    Migration(
        3,
        "metric index",
        (
            """
            CREATE TABLE metrics (
                run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
                name TEXT NOT NULL,
                points INTEGER NOT NULL,
                last_step INTEGER NOT NULL,
                last_value REAL NOT NULL,
                lowest REAL NOT NULL,
                highest REAL NOT NULL,
                PRIMARY KEY (run, name)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX metrics_by_value ON metrics (name, last_value)",
        ),
    ),
    Migration(
        4,
        "leases, and rows with what is in their JSON",
        (
            """
            CREATE TABLE leases (
                run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
                attempt INTEGER NOT NULL,
                heartbeat_at REAL NOT NULL
            )
            """,
            """
            CREATE VIEW run_rows AS SELECT
                runs.*,
                (SELECT group_concat(label, char(10)) FROM run_labels WHERE run = number) AS labels,
                json_extract(spec, '$.params') AS params,
                json_extract(spec, '$.after') AS after,
                json_extract(spec, '$.resources.cpus') AS cpus,
                json_extract(spec, '$.resources.gpus') AS gpus,
                json_extract(spec, '$.resources.memory_bytes') AS memory_bytes,
                json_extract(owner, '$.pid') AS owner_pid,
                json_extract(owner, '$.host_id') AS owner_host_id,
                json_extract(owner, '$.boot_id') AS owner_boot_id,
                json_extract(code, '$.tree') AS code_tree,
                json_extract(environment, '$.digest') AS environment_digest,
                json_extract(outputs, '$.size_bytes') AS outputs_size_bytes,
                json_extract(outputs, '$.removed') AS outputs_removed
            FROM runs
            """,
        ),
    ),
    Migration(
        5,
        "sweeps",
        (
            """
            CREATE TABLE sweeps (
                number INTEGER PRIMARY KEY,
                created_at TEXT NOT NULL,
                request TEXT NOT NULL,
                trials INTEGER NOT NULL,
                parallel INTEGER NOT NULL,
                rung_metric TEXT,
                state TEXT NOT NULL,
                message TEXT,
                ended_at TEXT
            )
            """,
            """
            CREATE TABLE sweep_trials (
                sweep INTEGER NOT NULL REFERENCES sweeps ON DELETE CASCADE,
                trial INTEGER NOT NULL,
                run INTEGER NOT NULL UNIQUE,
                attempt INTEGER NOT NULL,
                params TEXT NOT NULL,
                settled INTEGER NOT NULL,
                value REAL,
                step INTEGER,
                PRIMARY KEY (sweep, trial)
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE sweep_rungs (
                run INTEGER NOT NULL,
                rung INTEGER NOT NULL,
                value REAL,
                PRIMARY KEY (run, rung)
            ) WITHOUT ROWID
            """,
        ),
    ),
    Migration(
        6,
        "projects",
        (
            "ALTER TABLE runs ADD COLUMN project TEXT",
            "CREATE INDEX runs_by_project ON runs (project)",
        ),
    ),
    Migration(
        7,
        "attempts",
        (
            "ALTER TABLE runs ADD COLUMN attempts TEXT NOT NULL DEFAULT '[]'",
            "ALTER TABLE runs ADD COLUMN retry_at REAL",
        ),
    ),
    Migration(
        8,
        "what supervisors on a cluster are given",
        (
            """
            CREATE TABLE requests (
                run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
                request TEXT NOT NULL
            )
            """,
        ),
    ),
)
NEWEST = MIGRATIONS[-1].number


class NewerSchemaError(StoreError):
    """A newer conjure wrote the database."""


def migrate(connection: sqlite3.Connection, *, up_to: int = NEWEST) -> int:
    """Bring a database to the newest schema.

    Args:
        connection: In autocommit mode.
        up_to: Stop after this step (tests start from older schemas).

    Returns:
        The schema it had before: 0 if it was empty.

    Raises:
        NewerSchemaError: It was written by a newer version of conjure.
    """
    before = schema_number(connection)
    if before > NEWEST:
        raise NewerSchemaError(
            f"conjure's database has schema {before}, and this version of conjure supports up to {NEWEST}:"
            " it was written by a newer version of conjure",
            hint="upgrade conjure, or set CONJURE_HOME to another folder",
        )
    for migration in MIGRATIONS[:up_to]:
        if migration.number > before:
            _take(connection, migration)
    return before


def lacks_runs(connection: sqlite3.Connection) -> bool:
    """Whether a file that was made anew may lack runs that have a folder: so it is until `mark_complete`."""
    return connection.execute("PRAGMA user_version").fetchone()[0] != 0


def mark_complete(connection: sqlite3.Connection) -> None:
    """Write down that a file has every run that has a folder."""
    connection.execute("PRAGMA user_version = 0")


def schema_number(connection: sqlite3.Connection) -> int:
    """The last step the database has taken; 0 for an empty one."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone():
        return 0
    return connection.execute("SELECT coalesce(max(number), 0) FROM schema_migrations").fetchone()[0]


def has_known_schema(connection: sqlite3.Connection) -> bool:
    """Whether tables and indexes are as the steps that were taken made them; a newer schema is not judged."""
    taken = schema_number(connection)
    if not 0 < taken <= NEWEST:
        return True
    made = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(made, up_to=taken)
        return _schema(made) == _schema(connection)
    finally:
        made.close()


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return sorted(tuple(row) for row in rows if not row[1].startswith("sqlite_"))


def _take(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, taken_at TEXT NOT NULL)"
        )
        if schema_number(connection) < migration.number:  # another process may have been quicker
            for statement in migration.statements:
                connection.execute(statement)
            if migration.number == 1:
                connection.execute("PRAGMA user_version = 1")  # see `lacks_runs`
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?)",
                (migration.number, migration.name, to_iso(time.time())),
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
