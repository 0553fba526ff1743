"""`conjure completion`: a script for a shell, which completes conjure's commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    bash: add `eval "$(conjure completion bash)"` to ~/.bashrc. zsh: the same with zsh, to ~/.zshrc.
    fish: `conjure completion fish > ~/.config/fish/completions/conjure.fish`.
    """
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(root.command, {}, "conjure", "_CONJURE_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
