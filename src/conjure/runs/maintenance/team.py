"""A home that several machines share: its records in PostgreSQL, its files on a shared disk or in a store.

Main entries: `init`, `join`, `upgrade_schema`, `leave`, `push`, `status`. Invariant: every record is in
PostgreSQL and in a file (in the run's folder, or in the object store), so either can be made from the other;
no password and no key is written down.
"""

import getpass
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from conjure.core.files import expand_user
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.team_settings import TeamSettings, read_team
from conjure.core.text import plural
from conjure.core.trees import remove_tree
from conjure.errors import ConflictError, StoreError, UsageError, option
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.team_runs import TeamRuns, stored_database
from conjure.runs.artifacts.team_transfer import upload_elsewhere
from conjure.runs.artifacts.uploads import read_upload, uploads_here
from conjure.runs.code.snapshot_packs import has_tree
from conjure.runs.database.base import DatabaseAwayError, DatabaseRefusedError, RunFilter
from conjure.runs.database.open_database import open_database, share, stop_sharing
from conjure.runs.database.postgres import PostgresDatabase, PostgresSession, check_schema
from conjure.runs.database.postgres_migrations import NEWEST, schema_number, upgrade
from conjure.runs.database.record_files import folder_numbers, read_record
from conjure.runs.objects import base
from conjure.runs.objects.index import ObjectIndex, UploadRow
from conjure.runs.objects.remote import check_address, open_objects
from conjure.runs.objects.store_check import Abilities, probe
from conjure.runs.schema.record import OutputFacts, RunRecord
from conjure.runs.schema.run_folder import MANIFEST, RunFolder

_SCHEMES = ("postgresql", "postgres")
# Parameters of libpq's that no address may have, and those that name files.
_SECRETS = {"password", "sslpassword", "oauth_client_secret"}
_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"}
_SYSTEMS_OWN = "system"  # as sslrootcert: the authorities that the system trusts
_SAME_MOMENT_S = 0.001  # times in files are rounded
_PROBE_TRIES = 2  # a wrong address must not look like a slow one


@dataclass(frozen=True, slots=True)
class TeamStatus:
    """How a home and what it shares stand.

    Attributes:
        database: Address of the database.
        server: What the server says it is.
        schema: The schema it has.
        runs: How many runs it holds.
        active: How many of them have not ended.
        objects: Address of the object store; None where the home's folder is shared.
        objects_can: What the store was found to be able to do, in words.
        stored: How many objects there are.
        stored_bytes: Their size.
        member: The name under which this home's runs stand.
    """

    database: str
    server: str
    schema: int
    runs: int
    active: int
    objects: str | None = None
    objects_can: str | None = None
    stored: int | None = None
    stored_bytes: int | None = None
    member: str | None = None


def init(home: Home, address: str, objects: str | None = None) -> TeamStatus:
    """Have a home keep its records in PostgreSQL; runs that it has keep their numbers.

    Args:
        home: The home; without an object store, in a folder that every machine sees at the same path.
        address: ``postgresql://user@host/database``, without a password.
        objects: Where files are to be: an object store; None to leave them in the home's folder. Runs that
            are in the store already, of a database since lost, are taken over.

    Raises:
        UsageError: An address is none, or has a secret in it.
        ConflictError: The home shares a database already, a run is active, or the database has other runs.
        StoreError: The database or the store cannot be reached, or not be changed.
    """
    _refuse_address(address)
    if objects is not None:
        check_address(objects)
    _refuse_member(home)
    home.create()
    _refuse_active(home)
    if objects is not None:
        probe(open_objects(objects, tries=_PROBE_TRIES))
        _refuse_taken(home, address, objects)
    _upgrade(home, address)
    with PostgresDatabase.open(home, address) as database:
        foreign = _runs_of_others(home, database)
        if foreign:
            raise ConflictError(
                f"the database contains {plural(len(foreign), 'run')} of another home;"
                " each home needs its own database",
                hint="create one: createdb NAME; or become a member of that home: conjure team join",
            )
        database.reindex()
        if objects is not None:
            _begin_with_objects(home, database, address, objects)
        share(home, TeamSettings(address, objects, _new_member() if objects is not None else ""))
    return status(home)


def join(home: Home, address: str) -> TeamStatus:
    """Have a new home share the records and files of a team; one that does so already goes on.

    A member whose team has another database now, over the same files, goes on with that one.

    Args:
        home: A home without runs and uploads, in a folder of this machine's own.
        address: Of the team's database.

    Raises:
        UsageError: The address is none, or has a password in it.
        ConflictError: The home belongs to another team already, or has runs or uploads of its own, or active
            runs.
        StoreError: The database or the store cannot be reached, or there is no object store.
    """
    _refuse_address(address)
    known = read_team(home)
    if known is not None and known.database == address:
        return status(home)
    if known is not None and known.objects is None:
        _refuse_member(home)
    if known is None:
        _refuse_own(home)
    with PostgresDatabase.open(home, address) as database:
        objects = ObjectIndex(database.session).objects_address()
    if objects is None:
        raise StoreError(
            "the files of this database's runs are in a shared folder, not in an object store",
            hint="set CONJURE_HOME to that folder; it is not necessary to join",
        )
    if known is not None and known.objects != objects:
        _refuse_member(home)
    probe(open_objects(objects, tries=_PROBE_TRIES))
    if known is not None:
        _leave_database(home)
    home.create()
    share(home, TeamSettings(address, objects, _new_member() if known is None else known.member))
    return status(home)


def _refuse_own(home: Home) -> None:
    """Let nobody join whose runs and uploads would stand for others of the team's."""
    elsewhere = "join with another home, conjure --home NAME team join …"
    if folder_numbers(home.runs):
        raise ConflictError(
            f"{home.root} has runs, whose numbers the team also uses",
            hint=f"{elsewhere}, and copy the runs with conjure --home NAME team push",
        )
    if uploads_here(home):
        raise ConflictError(
            f"{home.root} has uploads, whose names and versions the team also uses",
            hint=f"{elsewhere}, and upload the files again with conjure --home NAME upload",
        )


def _leave_database(home: Home) -> None:
    """Have nothing of the database that a member used so far: it may be lost, and with it its last runs."""
    # Where it cannot be asked for active runs, their supervisors cannot reach it either, and give up.
    with suppress(StoreError):
        _refuse_active(home, folder_numbers(home.runs))
    _forget_others(home)


def _new_member() -> str:
    """Who this home is: for people to read, and different from every other."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}/{secrets.token_hex(3)}"


def upgrade_schema(home: Home) -> tuple[int, int]:
    """Bring the shared database to the schema of this version.

    Returns:
        The schema before and after.

    Raises:
        StoreError: It cannot be reached or changed, or the home shares none.
    """
    return _upgrade(home, _team_of(home).database)


def _upgrade(home: Home, address: str) -> tuple[int, int]:
    session = PostgresSession(home, address)
    try:
        before, after = upgrade(session), schema_number(session)
    finally:
        session.close()
    check_schema(after)
    return before, after


def leave(home: Home) -> int:
    """Have a home keep its records in a file of its own again, rebuilt from the run folders it has.

    Of a team with an object store it keeps the runs that it carried out, and uploads that are whole here.

    Returns:
        How many runs it has then.

    Raises:
        ConflictError: A run of it is active.
        StoreError: The home shares no database, or cannot be written.
    """
    team = _team_of(home)
    _refuse_active(home, folder_numbers(home.runs) if team.objects is not None else None)
    if team.objects is not None:
        _forget_others(home)
    stop_sharing(home)
    with open_database(home) as database:
        return database.count(RunFilter(archived=True))


def _forget_others(home: Home) -> None:
    """Remove what was brought of other machines: their numbers will be those of new runs here."""
    remove_tree(home.fetched)
    for name, version in uploads_here(home):
        place = home.uploads / name / str(version)
        if upload_elsewhere(place) is not None:
            remove_tree(place)


def status(home: Home) -> TeamStatus:
    """How the home and what it shares stand.

    Raises:
        StoreError: The home shares nothing, or it cannot be reached.
    """
    team = _team_of(home)
    with PostgresDatabase.open(home, team.database) as database:
        runs, active = database.count(RunFilter(archived=True)), len(database.active_numbers())
        found = TeamStatus(team.database, database.server(), NEWEST, runs, active)
        if team.objects is None:
            return found
        abilities: Abilities = probe(open_objects(team.objects, tries=_PROBE_TRIES))
        count, size = ObjectIndex(database.session).size()
        return TeamStatus(
            found.database,
            found.server,
            NEWEST,
            runs,
            active,
            objects=team.objects,
            objects_can=abilities.in_words(),
            stored=count,
            stored_bytes=size,
            member=team.member,
        )


# ---- files into the store, and records out of it -----------------------------------------------------------


def _begin_with_objects(home: Home, database: PostgresDatabase, address: str, objects: str) -> None:
    """Put what a home has into an object store, or take over what is in it."""
    files = TeamRuns(open_objects(objects), database)
    files.index.set_objects_address(objects)
    files.store_database(address)
    numbers = sorted(database.numbers())
    if not numbers:
        files.rebuild()
    for number in numbers:
        record = database.get(number)
        digest = send_run(home, files, record)
        if digest is not None and record.outputs is not None:
            database.set_facts(number, outputs=_with_manifest(record.outputs, digest))
    for name, version in uploads_here(home):
        _send_upload(home, files, name, version)
    while files.export_records():
        pass


def _runs_of_others(home: Home, database: PostgresDatabase) -> set[int]:
    """The runs in a database that are not those that a home has in its folders."""
    return {number for number in database.numbers() if not _is_own(home, database.get(number))}


def _is_own(home: Home, record: RunRecord) -> bool:
    own = read_record(home.run_folder(record.number))
    return own is not None and abs(own.requested_at - record.requested_at) < _SAME_MOMENT_S


def _refuse_taken(home: Home, address: str, objects: str) -> None:
    """Before anything is written: let nobody use a store that others still use."""
    store = open_objects(objects)
    known = stored_database(store)
    if known is not None and known != address:
        _refuse_living(home, known, store.address)
    has_own = bool(folder_numbers(home.runs) or uploads_here(home))
    if not has_own or _is_begun(home, address, objects):
        return
    for what, prefix in (("runs", base.RECORDS), ("uploads", base.UPLOADS)):
        if any(True for _ in store.names(prefix)):
            raise ConflictError(
                f"{objects} contains the {what} of another home",
                hint="give another prefix, or start with a home without runs and uploads to take them over",
            )


def _is_begun(home: Home, address: str, objects: str) -> bool:
    """Whether a database belongs to a store already, as after a beginning that was interrupted."""
    session = PostgresSession(home, address)
    try:
        return schema_number(session) == NEWEST and ObjectIndex(session).objects_address() == objects
    finally:
        session.close()


def _refuse_living(home: Home, address: str, objects: str) -> None:
    """Let nobody take a store over whose own database still has its runs."""
    try:
        if _is_empty(home, address):
            return
        with PostgresDatabase.open(home, address) as database:
            count = database.count(RunFilter(archived=True))
    except DatabaseAwayError as error:
        if not isinstance(error, DatabaseRefusedError):
            return  # it is lost: this is what taking over is for
        raise _is_still_there(address, objects, error) from error
    except StoreError as error:  # a newer or an older version's, or one that this role may not read
        raise _is_still_there(address, objects, error) from error
    if count:
        raise ConflictError(
            f"{objects} belongs to {address}, which contains {plural(count, 'run')}",
            fix=shell_words("conjure", "team", "join", "--database", address),
        )


def _is_empty(home: Home, address: str) -> bool:
    """Whether a database has no tables of conjure's."""
    session = PostgresSession(home, address)
    try:
        return schema_number(session) == 0
    finally:
        session.close()


def _is_still_there(address: str, objects: str, error: StoreError) -> ConflictError:
    why = error.unspelled
    return ConflictError(
        f"{objects} belongs to {address}, which is still there: {why.message}", hint=why.hint
    )


def send_run(home: Home, files: TeamRuns, record: RunRecord) -> str | None:
    """Put the code, files, log and metrics of an ended run into a team's store.

    Args:
        home: The home that has the run.
        files: The team's store; the run is in its database under the same number.
        record: The run.

    Returns:
        The digest of the list of its outputs there; None if it has none.

    Raises:
        StoreError: The store cannot be reached, or a file is damaged.
    """
    digest = send_files(home, files, record)
    files.send_streams(home.run_folder(record.number), record.number, 0)
    return digest


def send_files(home: Home, files: TeamRuns, record: RunRecord) -> str | None:
    """Put the code, the files it was given and the outputs of an ended run into a team's store."""
    if record.code is not None and record.code.tree and has_tree(home, record.code.tree):
        files.send_code(home, record.code.tree)
    files.send_kept_files(home, record)
    folder = RunFolder.of(home, record.number)
    if record.outputs is None or record.outputs.removed or not folder.outputs.is_dir():
        return None
    with suppress(FileNotFoundError):
        return files.store(folder.outputs, Manifest.load(folder.manifest))
    return None


def _with_manifest(outputs: OutputFacts, digest: str) -> OutputFacts:
    return OutputFacts(outputs.files, outputs.size_bytes, outputs.recovered, outputs.removed, digest)


def _send_upload(home: Home, files: TeamRuns, name: str, version: int) -> None:
    kept = read_upload(home, name, version)
    place = home.uploads / name / str(version)
    content = next(each for each in (place / "folder", place / "file") if each.is_dir())
    digest = files.store(content, Manifest.load(place / MANIFEST))
    files.add_upload(
        UploadRow(
            name, version, content.name, kept.files, kept.size_bytes, kept.created_at, kept.source, digest
        )
    )


# ---- what is refused ---------------------------------------------------------------------------------------


def _team_of(home: Home) -> TeamSettings:
    team = read_team(home)
    if team is None:
        raise StoreError(
            "this home is not shared: its records are in its own database file",
            fix="conjure team init --help",
        )
    return team


def _refuse_member(home: Home) -> None:
    if read_team(home) is not None:
        raise ConflictError("this home already shares a database", fix="conjure team status")


def _refuse_active(home: Home, among: Iterable[int] | None = None) -> None:
    with open_database(home) as database:
        active = sorted(database.active_numbers())
    if among is not None:
        active = sorted(set(active) & set(among))
    if active:
        raise ConflictError(
            f"{plural(len(active), 'run')} {'has' if len(active) == 1 else 'have'} not ended:"
            f" {', '.join(map(str, active[:5]))}",
            fix=f"conjure wait {active[0]}",
        )


def _refuse_address(address: str) -> None:
    try:
        parts = urlsplit(address)
    except ValueError:  # half of a bracket around an address of IPv6
        parts = None
    if parts is None or parts.scheme not in _SCHEMES:
        raise UsageError(
            f"{option('database')} {_without_password(address)!r} is not an address of PostgreSQL",
            hint=option("database", "postgresql://USER@HOST/DATABASE"),
        )
    given = dict(parse_qsl(parts.query))
    if parts.password is not None or _SECRETS & given.keys():
        raise UsageError(
            f"{option('database')} {_without_password(address)!r} has a password in it, which every process"
            " list would show",
            hint="put it into ~/.pgpass (mode 600) or the variable PGPASSWORD, and leave it out here",
        )
    for name in sorted(_FILES & given.keys()):
        path = given[name]
        if path != _SYSTEMS_OWN and not Path(path).is_absolute():
            raise UsageError(
                f"{option('database')} has {name}={path}; runs read that file from other folders, so it must"
                " be an absolute path",
                hint=f"write {name}={expand_user(path).absolute()}",
            )


def _without_password(address: str) -> str:
    address = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address)
    return re.sub(r"(password=|secret=)[^&]*", r"\1***", address)
