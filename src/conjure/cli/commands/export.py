"""`conjure export`: a model for llama.cpp, or as a plain checkpoint folder.

Main entry: `command`. Invariant: stdout holds the path of what was written, or with --json all about it.
"""

import click

from conjure.cli.render import StatusLine, note, write_json
from conjure.cli.sampling_options import adapter_option
from conjure.core.home_selection import with_home
from conjure.core.quoting import shell_words
from conjure.core.units import format_size
from conjure.recipes.resource_lookup import data_path, model_lookup


@click.command()
@click.argument("model")
@click.argument("folder")
@click.option(
    "--format",
    type=click.Choice(["gguf", "ollama", "safetensors"]),
    default="gguf",
    show_default=True,
    help="gguf: for llama.cpp and compatible tools; ollama: gguf with a Modelfile; safetensors: for"
    " transformers, vLLM and conjure.",
)
@click.option(
    "--type",
    type=click.Choice(["float16", "q8_0", "float32", "bfloat16"]),
    help="Number format: float16, q8_0 or float32 for gguf and ollama; float32, bfloat16 or float16 for"
    " safetensors.  [default: float16 for gguf and ollama; as stored for safetensors]",
)
@adapter_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, model: str, folder: str, format: str, type: str | None, adapter: str | None, as_json: bool
) -> None:
    """Export MODEL, a name or a folder, to FOLDER.

    A GGUF file is written into FOLDER under the model's name, for Ollama with a Modelfile beside it; a
    safetensors checkpoint becomes FOLDER itself.
    """
    # Imports torch, which --help must not.
    from conjure.lm.checkpoints.export import export

    with StatusLine() as status:
        written = export(
            model,
            folder,
            format=format,
            type=type,
            adapter=data_path(adapter) if adapter is not None else None,
            lookups=[model_lookup],
            progress=lambda done, total: status.show(f"Converting… {done} of {total} tensors"),
        )
    if as_json:
        write_json(
            {
                "path": str(written.path),
                "format": written.format,
                "type": written.type,
                "size_bytes": written.size_bytes,
            }
        )
        return
    click.echo(written.path)
    note(f"{written.type}, {format_size(written.size_bytes)}")
    note(f"Try it: {_next_step(written.format, str(written.path))}")


def _next_step(format: str, path: str) -> str:
    if format == "gguf":
        return f"llama-completion --model {shell_words(path)} --prompt 'Once' --n-predict 70"
    if format == "ollama":
        return f"ollama create my-model -f {shell_words(path)}"
    return with_home(f"conjure generate --model {shell_words(path)}")
