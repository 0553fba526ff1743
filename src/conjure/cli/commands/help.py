"""`conjure help`: the help of a command, as ``conjure COMMAND --help`` shows it."""

import click

from conjure.core.text import did_you_mean
from conjure.errors import UsageError


@click.command
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def command(context: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of COMMAND, or of conjure itself."""
    shown = context.parent
    assert shown is not None
    for name in names:
        group = shown.command
        found = group.get_command(shown, name) if isinstance(group, click.Group) else None
        if found is None:
            known = group.list_commands(shown) if isinstance(group, click.Group) else []
            hint = did_you_mean(name, known) or f"see `{shown.command_path} --help`"
            raise UsageError(f"there is no command `{shown.command_path} {name}`; {hint}")
        shown = click.Context(found, info_name=name, parent=shown)
    click.echo(shown.get_help())
