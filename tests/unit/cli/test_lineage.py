"""The tree of what a run was made from."""

from click.testing import CliRunner

from conjure.cli.commands import lineage
from conjure.runs.database.open_database import open_database
from support.casting import add_run


def test_on_a_terminal_a_command_takes_no_more_cells_than_there_is_room_for(home, monkeypatch):
    monkeypatch.setattr(lineage, "on_terminal", lambda: True)
    with open_database(home) as store:
        number = add_run(store, command="語" * 60).number
    shown = CliRunner().invoke(lineage.command, [str(number)]).stdout
    assert f"  {'語' * 29}…\n" in shown
    assert "語" * 30 not in shown
