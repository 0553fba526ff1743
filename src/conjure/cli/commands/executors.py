"""`conjure executors`: the clusters that runs can be executed on."""

import click

from conjure.cli.explicit_options import give_json_to_subcommand
from conjure.cli.render import remark, write_json
from conjure.cli.tables import Column, show_table
from conjure.core.config import read_executors
from conjure.core.home import Home
from conjure.core.text import plural
from conjure.core.units import format_size
from conjure.errors import ConjureError
from conjure.runs.executors.cluster_check import Survey, check_nodes, survey

_COLUMNS = [
    Column("executor"),
    Column("kind"),
    Column("nodes", right=True),
    *(Column(name, right=True) for name in ("cores free", "GPUs free", "memory free")),
]


@click.group("executors", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List the executors that can be used with --on, with their total and free resources."""
    if context.invoked_subcommand is not None:
        if as_json:
            give_json_to_subcommand(context)
        return
    found = [survey(settings) for settings in read_executors(Home.from_environment()).values()]
    if as_json:
        write_json([each.to_dict() for each in found])
    elif not found:
        click.echo("No executors are defined; docs/clusters.md explains how to define one")
    else:
        show_table(_COLUMNS, [_row(each) for each in found])
    for each in found:
        if each.fault is not None and not as_json:
            remark(each.fault)


def _row(found: Survey) -> list[str]:
    if found.fault is not None:
        return [found.name, found.kind, "-", "-", "-", "-"]
    free, total = found.free, found.total
    return [
        found.name,
        found.kind,
        str(found.nodes),
        f"{free.cpus:g} of {total.cpus:g}",
        f"{free.gpus:g} of {total.gpus:g}",
        f"{format_size(int(free.memory_bytes))} of {format_size(int(total.memory_bytes))}",
    ]


@command.command("check")
@click.argument("name")
def check(name: str) -> None:
    """Check that runs can be executed on every node of executor NAME, by starting a job on each."""
    checked, faults = check_nodes(Home.from_environment(), name)
    if faults:
        raise ConjureError(f"{name}: {'; '.join(faults)}")
    click.echo(f"{name}: runs can be executed on {plural(checked, 'node')}")
