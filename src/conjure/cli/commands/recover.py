"""`conjure recover`: the outputs of a run that could not save them."""

import click

from conjure.cli.render import note, write_json
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.core.home import Home
from conjure.core.units import format_size
from conjure.runs.lifecycle.recovery import recover


@click.command
@click.argument("number", type=RUN_NUMBER)
@click.option("--json", "as_json", is_flag=True, help="Print the record as a JSON object.")
def command(number: int, *, as_json: bool) -> None:
    """Save the outputs of a killed or interrupted run, or outputs that could not be read when a run ended."""
    record = recover(Home.from_environment(), number, note)
    if as_json:
        write_json(record.to_dict())
    elif record.outputs is not None:
        files, size = record.outputs.files, format_size(record.outputs.size_bytes)
        click.echo(f"Recovered {files} file{'s' * (files != 1)}, {size} → runs/{number}")
