"""`conjure team`: a home whose records several machines share."""

from dataclasses import asdict

import click

from conjure.cli.render import write_json
from conjure.cli.tables import show_facts
from conjure.core.home import Home
from conjure.errors import ConjureError


@click.group("team")
def command() -> None:
    """Share a home between machines: its folder on a shared disk, its records in PostgreSQL."""


@command.command("init")
@click.option(
    "--database",
    required=True,
    metavar="ADDRESS",
    help="Database to use: postgresql://USER@HOST/DATABASE, without a password.",
)
def init(*, database: str) -> None:
    """Keep this home's records in PostgreSQL from now on; existing runs keep their numbers."""
    made = _team().init(Home.from_environment(), database)
    click.echo(f"{made.runs} runs are now in {made.database} ({made.server})")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Show the database that this home shares."""
    found = _team().status(Home.from_environment())
    if as_json:
        write_json(asdict(found))
        return
    show_facts([(name, str(value)) for name, value in asdict(found).items()])


@command.command("upgrade")
def upgrade() -> None:
    """Bring the shared database to the schema of this version of conjure."""
    before, after = _team().upgrade_schema(Home.from_environment())
    click.echo(f"schema {after}" if before == after else f"schema {before} → {after}")


@command.command("leave")
def leave() -> None:
    """Keep this home's records in a file of its own again."""
    _team().leave(Home.from_environment())
    click.echo("the records are in the home folder again")


def _team():  # noqa: ANN202 - a module
    try:
        # Needs psycopg, of the extra `team`.
        from conjure.runs.maintenance import team
    except ModuleNotFoundError as error:
        raise ConjureError(
            f"this command needs {error.name}, which is not installed", fix="pip install 'conjure[team]'"
        ) from error
    return team
