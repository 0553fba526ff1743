"""`conjure info`: everything about one run."""

import shutil
import textwrap
from collections.abc import Iterable

import click

from conjure.cli.render import on_terminal, visible, write_json
from conjure.cli.run_number_type import optional_number
from conjure.cli.status_colors import toned
from conjure.cli.tables import heading, show_facts
from conjure.core.home import Home
from conjure.recipes.used_models import UsedModel, used_models
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.views import view_run


@click.command
@optional_number
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(number: int, *, as_json: bool) -> None:
    """Show the details of run NUMBER (default: the newest): settings, status, times and outputs."""
    home = Home.from_environment()
    with open_store(home) as store:
        view = view_run(store, number)
    models = used_models(home, view.record)
    if as_json:
        write_json(view.to_dict() | {"models": [model.to_dict() for model in models]})
        return
    show_facts(
        [
            *((fact.name, toned(fact.value, fact.tone)) for fact in view.facts),
            *(("model", _model_text(model)) for model in models if model.sha256 is not None),
        ]
    )
    for title, facts in view.sections.items():
        if facts:
            heading(title)
            show_facts([(f"  {fact.name}", fact.value) for fact in facts])
    environment = view.record.environment
    if environment is not None and environment.packages:
        heading(f"packages ({len(environment.packages)})")
        click.echo(_paragraph(f"{name} {version}" for name, version in environment.packages.items()))


def _model_text(model: UsedModel) -> str:
    return f"{model.name}, weights sha256 {model.sha256}"


def _paragraph(words: Iterable[str]) -> str:
    """Many short things, filled into lines on a terminal and one per line elsewhere."""
    if not on_terminal():
        return "\n".join(f"  {word}" for word in words)
    width = shutil.get_terminal_size().columns
    # Names stay with their versions: only the blanks between pairs may break.
    text = ", ".join(word.replace(" ", "\xa0") for word in words)
    filled = textwrap.fill(visible(text), width - 2, break_on_hyphens=False)
    return textwrap.indent(filled.replace("\xa0", " "), "  ")
