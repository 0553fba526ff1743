"""`conjure team`: a home whose records several machines share."""

from dataclasses import asdict

import click

from conjure.cli.render import write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.cli.tables import show_facts
from conjure.core.home import Home
from conjure.core.home_selection import find_home
from conjure.core.text import plural
from conjure.core.units import format_size
from conjure.errors import ConjureError
from conjure.installation import install_command


@click.group("team")
def command() -> None:
    """Share runs between machines: records in PostgreSQL, files in an object store or on a shared disk."""


@command.command("init")
@click.option(
    "--database",
    required=True,
    metavar="ADDRESS",
    help="Database to use: postgresql://USER@HOST/DATABASE, without a password.",
)
@click.option(
    "--objects",
    metavar="ADDRESS",
    help="Where to keep files: s3://, gs://, az:// or file:///; default: the home folder, shared by all.",
)
def init(*, database: str, objects: str | None) -> None:
    """Keep this home's records in PostgreSQL from now on; existing runs keep their numbers.

    With --objects its files go to an object store, and other machines take part with `conjure team join`.
    Keys are not part of ADDRESS: they are read from variables such as AWS_SECRET_ACCESS_KEY and
    AZURE_STORAGE_ACCOUNT_KEY, or from ~/.aws/credentials.
    """
    made = _team().init(Home.from_environment(), database, objects)
    verb = "is" if made.runs == 1 else "are"
    click.echo(f"{plural(made.runs, 'run')} {verb} now in {made.database} ({made.server})")
    _show_objects(made.objects, made.objects_can)


@command.command("join")
@click.option(
    "--database",
    required=True,
    metavar="ADDRESS",
    help="Database of the team: postgresql://USER@HOST/DATABASE, without a password.",
)
def join(*, database: str) -> None:
    """Join a team whose files are in an object store. This home must not have runs.

    In a home that has joined already it changes nothing, so a script that prepares machines can call it.
    If the address of the team's database has changed, the home uses the new one.
    """
    made = _team().join(Home.from_environment(), database)
    name = f"Joined as {made.member}" if made.member is not None else "This home already uses this database"
    click.echo(f"{name}: {plural(made.runs, 'run')} in {made.database} ({made.server})")
    _show_objects(made.objects, made.objects_can)


@command.command("push")
@click.argument("numbers", type=RUN_NUMBER, nargs=-1, metavar="[NUMBER]...")
@click.option("--from", "source", default="local", metavar="NAME", help="Home to copy from; default: local.")
def push(*, numbers: tuple[int, ...], source: str) -> None:
    """Copy ended runs of the local home, by default all, into this home, under new numbers.

    Runs and uploads whose files they used are copied too. Each copy has a label that names the original, and
    no run is copied twice.
    """
    home = Home.from_environment()
    for pushed in _pushing().push(find_home(source), home, numbers):
        click.echo(
            f"{source} run {pushed.old} -> run {pushed.new}{'' if pushed.is_new else ' (already there)'}"
        )


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Show what this home shares, and whether database and store can be reached."""
    found = _team().status(Home.from_environment())
    if as_json:
        write_json(asdict(found))
        return
    facts = {name: value for name, value in asdict(found).items() if value is not None}
    if found.stored_bytes is not None:
        facts["stored_bytes"] = format_size(found.stored_bytes)
    show_facts([(name.replace("_", " "), str(value)) for name, value in facts.items()])


@command.command("upgrade")
def upgrade() -> None:
    """Upgrade the shared database to the schema of this version of conjure."""
    before, after = _team().upgrade_schema(Home.from_environment())
    click.echo(f"Schema {after}" if before == after else f"Schema {before} → {after}")


@command.command("leave")
def leave() -> None:
    """Give this home its own database file again, rebuilt from its run folders.

    It keeps the runs that were executed in it. Nothing changes for the other members of the team.
    """
    kept = _team().leave(Home.from_environment())
    click.echo(f"The home has its own database file again, with {plural(kept, 'run')}")


def _show_objects(objects: str | None, can: str | None) -> None:
    if objects is not None:
        click.echo(f"Files are in {objects}; the store {can}")


def _team():  # noqa: ANN202 - a module
    return _modules()[0]


def _pushing():  # noqa: ANN202 - a module
    return _modules()[1]


def _modules():  # noqa: ANN202 - modules
    try:
        # Needs psycopg and obstore, of the extra `team`.
        from conjure.runs.maintenance import push_to_team, team
    except ModuleNotFoundError as error:
        raise ConjureError(
            f"this command needs {error.name}, which is not installed", fix=install_command("team")
        ) from error
    return team, push_to_team
