"""`conjure web`: the runs in a browser."""

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from conjure.cli.render import note, save_text
from conjure.cli.run_number_type import RUN_NUMBER
from conjure.core.home import Home
from conjure.http.browser import open_in_browser


@click.group("web", invoke_without_command=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port to listen on; 0 takes a free one. [default: 8180, or a free one if 8180 is in use]",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Also answer to this host name, such as a proxy's (repeatable).",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with API keys, one per line; default: $CONJURE_API_KEY, if set. A key is required if --host is"
    " not this machine.",
)
@click.option("--allow-actions", is_flag=True, help="Let the page stop, kill, label, archive and rerun runs.")
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.pass_context
def command(
    context: click.Context,
    *,
    host: str,
    port: int | None,
    allowed_hosts: tuple[str, ...],
    api_key_file: Path | None,
    allow_actions: bool,
    no_open: bool,
) -> None:
    """Open a page that shows the runs: live curves and logs, comparison, lineage, reports.

    The printed address contains the token that the page requires. The page is read-only unless
    --allow-actions is given. ^C stops the server.
    """
    if context.invoked_subcommand is not None:
        return
    serving = import_module("conjure.web.serving")  # the web framework, which --help must not import
    options = serving.ServingOptions(host, port, allowed_hosts, api_key_file, allow_actions=allow_actions)

    def ready(address: str) -> None:
        click.echo(address)
        note("^C stops the server")
        if not no_open and _has_screen():
            open_in_browser(address)

    serving.serve(Home.from_environment(), options, ready)


def _has_screen() -> bool:
    """Whether a browser can show itself: without one, a browser for terminals would take this one over."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@command.command("export")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=RUN_NUMBER)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Write the page to this file.",
)
def export(numbers: tuple[int, ...], *, output: Path) -> None:
    """Save runs as one HTML file that can be read anywhere: no server, no scripts."""
    page = import_module("conjure.web.export").export_page(Home.from_environment(), numbers)
    save_text(output, page)
    note(f"Saved {output}")
