"""`conjure serve` once its options are read: listens, serves, and reports to the run it is in.

Main entry: `serve`. Invariant: every model is found before the server listens, so that a slip of the keyboard
is told at once.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from conjure.cli.commands.serve import split_model
from conjure.core.text import plural, today
from conjure.errors import CheckpointError, DataError, UsageError
from conjure.http.api_keys import load_api_keys
from conjure.http.generation.model_registry import ModelName
from conjure.http.generation.service import Limits
from conjure.http.server import listen
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.chat.template import ChatTemplate
from conjure.lm.text.special_tokens import LARGEST_TEMPLATE
from conjure.metric_logging import inside_a_run, log_metric
from conjure.recipes.resource_lookup import model_lookup
from conjure.runs.views import PORT_METRIC
from conjure.serve.api import Api
from conjure.serve.predictor import PredictorApi, load_predictor
from conjure.serve.server import ServerSettings, run_predictor, run_server

_REPORT_EVERY_S = 5.0
# What templates may name; the tokens themselves are known once a model is loaded.
_TOKEN_NAMES = [f"{each}_token" for each in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")]


def serve(
    models: Sequence[str],
    *,
    predictor: str | None,
    config: Path | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    chat_template: Path | None,
    allow_host: Sequence[str],
    slots: int,
    queue: int,
    **options: Any,
) -> int:
    """Serve until a signal says to end; the exit status."""
    keys = load_api_keys(api_key_file)
    settings = ServerSettings(
        models=_named(models),
        limits=Limits(most_rows=slots, most_waiting=queue),
        allowed_hosts=[name.lower() for name in allow_host],
        keys=keys,
        chat_template=_read_template(chat_template) if chat_template is not None else None,
        **options,
    )
    for each in settings.models:
        resolve_model(each.source, lookups=[model_lookup])
    own = load_predictor(predictor, _read_config(config)) if predictor is not None else None
    bound = listen(host, port, has_key=keys is not None)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    with bound, _reporting() as report:
        if own is None:
            run_server(settings, bound, ready=lambda address, api: _announce(address, api, report))
        else:
            run_predictor(
                own,
                settings,
                bound,
                ready=lambda address, api: _announce_predictor(address, own, api, report),
            )
    return 0


def _read_config(file: Path | None) -> dict[str, Any]:
    """The arguments of a predictor."""
    if file is None:
        return {}
    try:
        content = yaml.safe_load(_read_text(file))
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {str(error).partition(chr(10))[0]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"{file} must contain names and values, the arguments of the predictor's __init__")
    return content


def _read_template(file: Path) -> str:
    """A chat template that can be rendered, as far as one message tells.

    Raises:
        UsageError: It is too large, or no jinja2 template.
    """
    text = _read_text(file)
    if len(text) > LARGEST_TEMPLATE:
        raise UsageError(f"{file} is larger than {LARGEST_TEMPLATE:,} characters, the most allowed")
    try:
        template = ChatTemplate(text, dict.fromkeys(_TOKEN_NAMES, ""), today())
        template.render([Message("user", "Hello")], opens_answer=True)
    except CheckpointError as error:
        raise UsageError(f"{file} cannot be used: {error}") from error
    except DataError:  # it refuses this conversation, and may take others
        pass
    return text


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
            f"two models are called {repeated!r}", hint="give each a different name: --model NAME=MODEL"
        )
    return named


def _announce(address: str, api: Api, report: "_Report") -> None:
    first = api.registry.loaded[api.registry.given[0].name]
    more = len(api.registry.given) - 1
    others = f", and {plural(more, 'model')} more when requested" if more else ""
    click.echo(f"Serving {first.name} ({first.precision}){others} at {address}/v1")
    report(address, lambda: api.monitoring.served)


def _announce_predictor(address: str, name: str, api: PredictorApi, report: "_Report") -> None:
    click.echo(f"Serving {name} at {address}/predict")
    report(address, lambda: (api.served, None))


Served = Callable[[], tuple[float, float | None]]
"""Requests taken in so far, and tokens generated, where there are tokens."""

_Report = Callable[[str, Served], None]


@contextmanager
def _reporting() -> Iterator[_Report]:
    """Gives what is to be called once a server is ready; it tells the run how much is served, to the end."""
    ended, threads = threading.Event(), []

    def report(address: str, served: Served) -> None:
        sys.stdout.flush()
        if inside_a_run():
            log_metric(PORT_METRIC, int(address.rpartition(":")[2]))
            threads.append(threading.Thread(target=_report_on, args=[served, ended], name="metrics"))
            threads[0].start()

    try:
        yield report
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _report_on(served: Served, ended: threading.Event) -> None:
    """Tell the run how much was served, while that changes."""
    told: tuple[float, float | None] | None = None
    tokens_before = 0.0
    while True:
        over = ended.wait(_REPORT_EVERY_S)
        requests, tokens = served()
        rate = (tokens - tokens_before) / _REPORT_EVERY_S if tokens is not None else None
        tokens_before = tokens or 0.0
        if (requests, rate) != told:
            log_metric("requests", requests)
            if rate is not None:
                log_metric("tokens_per_s", rate)
        told = requests, rate
        if over:
            return
