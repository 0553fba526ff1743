"""`conjure version`: which conjure this is."""

from importlib.metadata import version

import click


@click.command
def command() -> None:
    """Show the version, as `conjure --version` does."""
    click.echo(f"conjure, version {version('conjure')}")
