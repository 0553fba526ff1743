"""The schema of a shared database in PostgreSQL, as numbered steps forward.

Main entries: `upgrade`, `schema_number`. Invariant: only `upgrade` changes the schema, one client at a time;
a step that was released is never edited, only followed.
"""

from conjure.runs.database.migrations import Migration
from conjure.runs.database.session import Session

POSTGRES_MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "runs, labels, links, metrics, leases",
        (
            "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
            """
            CREATE TABLE runs (
                number BIGINT PRIMARY KEY,
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
                command_s DOUBLE PRECISION,
                total_s DOUBLE PRECISION,
                end_request TEXT,
                gpu_ids TEXT NOT NULL DEFAULT '[]',
                parent BIGINT,
                rerun_of BIGINT,
                archived_at TEXT,
                identity TEXT,
                owner TEXT,
                outputs TEXT,
                usage TEXT,
                mounts TEXT NOT NULL DEFAULT '[]',
                code TEXT,
                spec TEXT NOT NULL,
                environment TEXT,
                params TEXT,
                after TEXT,
                cpus DOUBLE PRECISION,
                gpus INTEGER,
                memory_bytes BIGINT,
                owner_pid BIGINT,
                owner_host_id TEXT,
                owner_boot_id TEXT,
                code_tree TEXT,
                environment_digest TEXT,
                outputs_size_bytes BIGINT,
                outputs_removed INTEGER,
                created_by TEXT NOT NULL DEFAULT current_user
            )
            """,
            "CREATE INDEX runs_active ON runs (number) WHERE end_reason IS NULL",
            "CREATE INDEX runs_identity ON runs (identity) WHERE identity IS NOT NULL",
            """
            CREATE TABLE run_labels (
                run BIGINT NOT NULL REFERENCES runs ON DELETE CASCADE,
                label TEXT COLLATE "C" NOT NULL,
                PRIMARY KEY (run, label)
            )
            """,
            "CREATE INDEX run_labels_by_label ON run_labels (label)",
            """
            CREATE TABLE run_sources (
                run BIGINT NOT NULL REFERENCES runs ON DELETE CASCADE,
                source TEXT NOT NULL,
                source_run BIGINT,
                PRIMARY KEY (run, source)
            )
            """,
            "CREATE INDEX run_sources_by_source_run ON run_sources (source_run)",
            """
            CREATE TABLE links (
                name TEXT COLLATE "C" PRIMARY KEY,
                resource TEXT NOT NULL,
                created_at TEXT NOT NULL
            )
            """,
            """
            CREATE TABLE metrics (
                run BIGINT NOT NULL REFERENCES runs ON DELETE CASCADE,
                name TEXT COLLATE "C" NOT NULL,
                points BIGINT NOT NULL,
                last_step BIGINT NOT NULL,
                last_value DOUBLE PRECISION NOT NULL,
                lowest DOUBLE PRECISION NOT NULL,
                highest DOUBLE PRECISION NOT NULL,
                PRIMARY KEY (run, name)
            )
            """,
            "CREATE INDEX metrics_by_value ON metrics (name, last_value)",
            """
            CREATE TABLE leases (
                run BIGINT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
                attempt BIGINT NOT NULL,
                heartbeat_at DOUBLE PRECISION NOT NULL
            )
            """,
            """
            CREATE VIEW run_rows AS SELECT
                runs.*,
                (SELECT string_agg(label, chr(10) ORDER BY label) FROM run_labels WHERE run = number)
                    AS labels
            FROM runs
            """,
        ),
    ),
    Migration(
        2,
        "sweeps",
        (
            """
            CREATE TABLE sweeps (
                number BIGINT PRIMARY KEY,
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
                sweep BIGINT NOT NULL REFERENCES sweeps ON DELETE CASCADE,
                trial INTEGER NOT NULL,
                run BIGINT NOT NULL UNIQUE,
                attempt INTEGER NOT NULL,
                params TEXT NOT NULL,
                settled INTEGER NOT NULL,
                value DOUBLE PRECISION,
                step BIGINT,
                PRIMARY KEY (sweep, trial)
            )
            """,
            """
            CREATE TABLE sweep_rungs (
                run BIGINT NOT NULL,
                rung INTEGER NOT NULL,
                value DOUBLE PRECISION,
                PRIMARY KEY (run, rung)
            )
            """,
        ),
    ),
    Migration(
        3,
        "objects",
        (
            # One row; address NULL where the home's folder is shared itself.
            "CREATE TABLE team (one INTEGER PRIMARY KEY CHECK (one = 1), objects TEXT)",
            """
            CREATE TABLE objects (
                name TEXT COLLATE "C" PRIMARY KEY,
                size_bytes BIGINT NOT NULL,
                pack TEXT COLLATE "C",
                start BIGINT,
                going INTEGER NOT NULL DEFAULT 0,
                last_used DOUBLE PRECISION NOT NULL DEFAULT extract(epoch FROM clock_timestamp())
            )
            """,
            "CREATE INDEX objects_by_pack ON objects (pack) WHERE pack IS NOT NULL",
            """
            CREATE TABLE run_streams (
                run BIGINT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
                attempt BIGINT NOT NULL,
                log_bytes BIGINT NOT NULL,
                metrics_bytes BIGINT NOT NULL
            )
            """,
            """
            CREATE TABLE uploads (
                name TEXT COLLATE "C" NOT NULL,
                version INTEGER NOT NULL,
                kind TEXT NOT NULL,
                files INTEGER NOT NULL,
                size_bytes BIGINT NOT NULL,
                created_at DOUBLE PRECISION NOT NULL,
                source TEXT NOT NULL,
                manifest TEXT NOT NULL,
                removed INTEGER NOT NULL DEFAULT 0,
                PRIMARY KEY (name, version)
            )
            """,
            # Runs whose record in the object store is older than their row; 0 stands for the links.
            "CREATE TABLE unexported (run BIGINT PRIMARY KEY, version BIGINT NOT NULL)",
            """
            CREATE FUNCTION note_unexported(changed BIGINT) RETURNS void LANGUAGE sql AS $$
                INSERT INTO unexported AS known (run, version)
                    SELECT changed, 1 FROM team WHERE objects IS NOT NULL
                    ON CONFLICT (run) DO UPDATE SET version = known.version + 1
            $$
            """,
            """
            CREATE FUNCTION run_changed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM note_unexported(NEW.number); RETURN NULL; END $$
            """,
            """
            CREATE FUNCTION label_changed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM note_unexported(coalesce(NEW.run, OLD.run)); RETURN NULL; END $$
            """,
            """
            CREATE FUNCTION links_changed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM note_unexported(0); RETURN NULL; END $$
            """,
            """
            CREATE TRIGGER run_changed AFTER INSERT OR UPDATE OF running_at, ended_at, end_reason,
                archived_at, outputs, mounts, code, environment ON runs
                FOR EACH ROW EXECUTE FUNCTION run_changed()
            """,
            """
            CREATE TRIGGER label_changed AFTER INSERT OR DELETE ON run_labels
                FOR EACH ROW EXECUTE FUNCTION label_changed()
            """,
            """
            CREATE TRIGGER links_changed AFTER INSERT OR UPDATE OR DELETE ON links
                FOR EACH STATEMENT EXECUTE FUNCTION links_changed()
            """,
        ),
    ),
    Migration(
        4,
        "projects",
        (
            'ALTER TABLE runs ADD COLUMN project TEXT COLLATE "C"',
            "CREATE INDEX runs_by_project ON runs (project)",
            "DROP VIEW run_rows",  # its columns are those that the table had when it was made
            """
            CREATE VIEW run_rows AS SELECT
                runs.*,
                (SELECT string_agg(label, chr(10) ORDER BY label) FROM run_labels WHERE run = number)
                    AS labels
            FROM runs
            """,
            "DROP TRIGGER run_changed ON runs",
            """
            CREATE TRIGGER run_changed AFTER INSERT OR UPDATE OF running_at, ended_at, end_reason,
                archived_at, outputs, mounts, code, environment, project ON runs
                FOR EACH ROW EXECUTE FUNCTION run_changed()
            """,
        ),
    ),
    Migration(
        5,
        "attempts",
        (
            "DROP VIEW run_rows",
            "ALTER TABLE runs ADD COLUMN attempts TEXT NOT NULL DEFAULT '[]'",
            "ALTER TABLE runs ADD COLUMN retry_at DOUBLE PRECISION",
            """
            CREATE VIEW run_rows AS SELECT
                runs.*,
                (SELECT string_agg(label, chr(10) ORDER BY label) FROM run_labels WHERE run = number)
                    AS labels
            FROM runs
            """,
        ),
    ),
    Migration(
        6,
        "what supervisors on a cluster are given",
        (
            """
            CREATE TABLE requests (
                run BIGINT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
                request TEXT NOT NULL
            )
            """,
        ),
    ),
    Migration(
        7,
        "uploads whose record in the object store is older than their row",
        (
            "ALTER TABLE uploads ADD COLUMN exported INTEGER NOT NULL DEFAULT 0",
            "CREATE INDEX uploads_unexported ON uploads (name, version) WHERE exported = 0",
        ),
    ),
)
NEWEST = POSTGRES_MIGRATIONS[-1].number


def schema_number(session: Session) -> int:
    """The last step that the database has taken; 0 for an empty one."""
    found = session.query("SELECT to_regclass('schema_migrations') IS NOT NULL AS found")
    if not found[0]["found"]:
        return 0
    return session.query("SELECT coalesce(max(number), 0) AS newest FROM schema_migrations")[0]["newest"]


def upgrade(session: Session) -> int:
    """Bring a database to the newest schema, one step and its record in one transaction.

    Returns:
        The schema it had before: 0 if it was empty.

    Raises:
        StoreError: The database cannot be changed.
    """

    def prepare() -> int:
        session.lock_all()
        session.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, taken_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        )
        return schema_number(session)

    before = session.transact(prepare)
    for migration in POSTGRES_MIGRATIONS:
        session.transact(lambda migration=migration: _take(session, migration))
    return before


def _take(session: Session, migration: Migration) -> None:
    session.lock_all()
    if schema_number(session) >= migration.number:
        return
    for statement in migration.statements:
        session.execute(statement)
    session.execute(
        "INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (migration.number, migration.name)
    )
