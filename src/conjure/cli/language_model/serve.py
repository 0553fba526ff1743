"""`conjure serve` once its options are read: listens, serves, and reports to the run it is in.

Main entry: `serve`. Invariant: every model is found before the server listens, so that a slip of the keyboard
is told at once.
"""

import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click

from conjure.cli.commands.serve import split_model
from conjure.cli.run_view import PORT_METRIC
from conjure.core.text import plural
from conjure.errors import UsageError
from conjure.http.api_keys import load_api_keys
from conjure.http.generation.model_registry import ModelName
from conjure.http.generation.service import Limits
from conjure.http.server import listen
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.recipes.resource_lookup import model_lookup
from conjure.reporting import inside_a_run, log_metric
from conjure.serve.api import Api
from conjure.serve.server import ServerSettings, run_server

_REPORT_EVERY_S = 5.0


def serve(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    api_key_file: Path | None,
    chat_template: Path | None,
    allow_host: Sequence[str],
    precision: str,
    slots: int,
    queue: int,
    log_prompts: bool,
) -> int:
    """Serve until a signal says to end; the exit status."""
    keys = load_api_keys(api_key_file)
    settings = ServerSettings(
        models=_named(models),
        precision=precision,
        limits=Limits(most_rows=slots, most_waiting=queue),
        allowed_hosts=[name.lower() for name in allow_host],
        keys=keys,
        log_prompts=log_prompts,
        chat_template=_read_text(chat_template) if chat_template is not None else None,
    )
    for each in settings.models:
        resolve_model(each.source, lookups=[model_lookup])
    bound = listen(host, port, has_key=keys is not None)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    ended = threading.Event()
    try:
        with bound:
            run_server(settings, bound, ready=lambda address, api: _announce(address, api, ended))
    finally:
        ended.set()
    return 0


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text: byte {error.start:,} cannot be read") from error


def _named(models: Sequence[str]) -> list[ModelName]:
    named = [ModelName(*split_model(given)) for given in models]
    names = [each.name for each in named]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(
            f"two models are called {repeated!r}", hint="give each a name of its own: --model NAME=MODEL"
        )
    return named


def _announce(address: str, api: Api, ended: threading.Event) -> None:
    first = api.registry.loaded[api.registry.given[0].name]
    more = len(api.registry.given) - 1
    others = f", and {plural(more, 'model')} more when asked for" if more else ""
    click.echo(f"Serving {first.name} ({first.precision}){others} at {address}/v1")
    sys.stdout.flush()
    if inside_a_run():
        log_metric(PORT_METRIC, int(address.rpartition(":")[2]))
        threading.Thread(target=_report, args=[api, ended], name="metrics", daemon=True).start()


def _report(api: Api, ended: threading.Event) -> None:
    """Tell the run how much was served, while that changes."""
    told: tuple[float, float] | None = None
    tokens_before = 0.0
    while True:
        over = ended.wait(_REPORT_EVERY_S)
        requests, tokens = api.monitoring.served
        rate = (tokens - tokens_before) / _REPORT_EVERY_S
        tokens_before = tokens
        if (requests, rate) != told:
            log_metric("requests", requests)
            log_metric("tokens_per_s", rate)
        told = requests, rate
        if over:
            return
