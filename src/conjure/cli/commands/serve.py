"""`conjure serve`: models behind OpenAI's API.

Main entry: `command`. Invariant: stdout holds the address, once requests are taken; logs go to stderr.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from conjure.cli.explicit_options import given_options, is_typed
from conjure.cli.recorded_run_options import RECORDING, record, recording_options, refuse_unrecorded
from conjure.cli.sampling_options import precision_option
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.errors import UsageError
from conjure.metric_logging import inside_a_run
from conjure.recipes.options import ServeOptions, option_words
from conjure.recipes.run_specs import InputMounts, conjure_command_spec, with_set_precision
from conjure.runs.schema.spec import CodeChoice, Mount, RunSpec

DEFAULT_PORT = 8000


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[NAME=]MODEL",
    help="Model name, folder, run, link or Hugging Face model; NAME is its name in requests. Repeatable."
    "  [default: sprite]",
)
@click.option(
    "--predictor",
    metavar="FILE[:CLASS]",
    help="Serve your own Python class at /predict instead of models.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with the arguments of the predictor's __init__.",
)
@click.option(
    "-m",
    "--mount",
    "mounts",
    multiple=True,
    metavar="RESOURCE[:PATH]",
    help="With --predictor and --save: mount a resource in the run. Repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with API keys, one per line; each request needs one. Default: $CONJURE_API_KEY, if set.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Also answer requests for this host name, as behind a reverse proxy. Repeatable.",
)
@precision_option
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    default=64,
    show_default=True,
    help="Texts generated at once, for each model.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Requests that may wait for a free slot; further ones are refused with status 429.",
)
@click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with a chat template to use instead of the models' own.",
)
@click.option("--log-prompts", is_flag=True, help="Also log the body of each request.")
@click.option("--save", is_flag=True, help="Record the server as a run.")
@recording_options
@click.pass_context
def command(
    context: click.Context,
    /,
    models: tuple[str, ...],
    *,
    predictor: str | None,
    config: Path | None,
    mounts: tuple[str, ...],
    save: bool,
    api_key_file: Path | None,
    chat_template: Path | None,
    **options: Any,
) -> int:
    """Serve models through an OpenAI-compatible HTTP API.

    Prints the address when it is ready. ^C and SIGTERM let requests in progress finish for up to 15
    seconds; a second one ends them at once. See docs/serving.md for the routes and their fields.
    """
    recording = {name: options.pop(name) for name in RECORDING}
    if predictor is not None and not is_typed(context, "models"):
        models = ()  # not the model that is set, either
    elif not models:
        models = ("sprite",)
    _check(models, predictor, config, mounts, save=save)
    if save and not inside_a_run():
        files = {"--api-key-file": api_key_file, "--chat-template": chat_template}
        words = [word for option, file in files.items() if file for word in (option, str(file.absolute()))]
        given = given_options(context, ServeOptions)
        words += option_words(with_set_precision(Home.from_environment(), given))
        spec = (
            _spec(models, words, recording)
            if predictor is None
            else _predictor_spec(predictor, config, mounts, words, recording)
        )
        return record(replace(spec, project=recording["project"]), recording, as_json=False)
    refuse_unrecorded(recording, "add --save")
    # Imports the web framework and the language-model half, which neither --help nor a recording needs.
    from conjure.cli.language_model import serve as implementation

    return implementation.serve(
        models,
        predictor=predictor,
        config=config,
        api_key_file=api_key_file,
        chat_template=chat_template,
        **options,
    )


def _check(
    models: Sequence[str],
    predictor: str | None,
    config: Path | None,
    mounts: Sequence[str],
    *,
    save: bool,
) -> None:
    """Refuse options that do not go together, and models that are none."""
    for given in models:
        split_model(given)
    if predictor is not None and models:
        raise UsageError("--predictor and --model cannot be combined")
    if predictor is None and (config is not None or mounts):
        raise UsageError("--config and --mount belong to --predictor", hint="add --predictor FILE")
    if mounts and not save:
        raise UsageError("--mount needs --save: resources are mounted in a run", fix="--save")


def _spec(models: Sequence[str], options: Sequence[str], recording: dict[str, Any]) -> RunSpec:
    """The run of this command: its models mounted, under the names they were given.

    Files stay where they are: keys are no data, and a run that holds a copy of them would keep them.
    """
    inputs = InputMounts(Home.from_environment())
    words = []
    for given in models:
        name, source = split_model(given)
        words += ["--model", f"{name}={inputs.model(source)}"]
    return conjure_command_spec(
        "serve",
        [*words, *options],
        inputs.mounts,
        description=recording["description"],
        labels=recording["label"],
    )


def _predictor_spec(
    predictor: str,
    config: Path | None,
    mounts: Sequence[str],
    options: Sequence[str],
    recording: dict[str, Any],
) -> RunSpec:
    """The run of a predictor: the code of this folder, its resources mounted."""
    words = ["--predictor", predictor, *(["--config", str(config)] if config is not None else []), *options]
    spec = conjure_command_spec(
        "serve",
        words,
        [Mount.parse(mount) for mount in mounts],
        description=recording["description"],
        labels=recording["label"],
    )
    return replace(spec, code=CodeChoice())


def split_model(given: str) -> tuple[str, str]:
    """What requests call a model, and what it is: ``jokes=runs/3``, or one word for both.

    Raises:
        UsageError: One of them is missing, or the name is not printable.
    """
    name, equals, source = given.partition("=")
    if not equals or name.startswith((".", "/", "~")):
        name, source = given, given
    if not name or not source or not name.isprintable() or name != name.strip():
        example = f"{name.strip() or 'NAME'}={source or 'sprite'}"
        raise UsageError(
            f"--model {given!r} is neither a model nor NAME=MODEL",
            hint=f"as in {shell_words('--model', example)}",
        )
    return name, source
