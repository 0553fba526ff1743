"""The `conjure` command: finds the verb, runs it, turns errors into one sentence and an exit status.

Main entry: `main`. Invariant: ``conjure --help`` imports no command's module, so it is instant; the table
below is the one place that names a command.
"""

import gc
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TextIO

import click

from conjure.cli.explicit_options import command_to_execute, spell_as_typed
from conjure.core.home_selection import OPTION, split_home_option, take_home_option, with_home
from conjure.core.quoting import printable, shell_words
from conjure.core.text import error_text, near_names
from conjure.errors import ConjureError, out_of_memory
from conjure.installation import install_command
from conjure.metric_logging import inside_a_run

# Their own failures have a status apart, and what follows their options is another program's.
_CARRIERS = ("run", "rerun")

# verb -> (section of --help, one line of help); the code is `command` in conjure/cli/commands/<verb>.py
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("Run commands", "Run a command as a numbered, isolated, recorded run."),
    "sweep": ("Run commands", "Run a command with many parameter values and rank the results."),
    "jupyter": ("Run commands", "Run JupyterLab as a run that saves its notebooks."),
    "rerun": ("Run commands", "Repeat a run with the same code, environment and command."),
    "ps": ("Look at runs", "List runs."),
    "info": ("Look at runs", "Show the details of a run."),
    "logs": ("Look at runs", "Show the log of a run."),
    "metrics": ("Look at runs", "Show the metrics of a run, as numbers or plots."),
    "stats": ("Look at runs", "Show the CPU, memory, disk and GPU use of a run."),
    "diff": ("Look at runs", "Compare two runs."),
    "lineage": ("Look at runs", "Show where a run's inputs came from."),
    "web": ("Look at runs", "Show runs in a browser: live curves and logs, comparison."),
    "wait": ("Control runs", "Wait until runs have ended."),
    "stop": ("Control runs", "Stop runs and save their outputs."),
    "kill": ("Control runs", "Kill runs without saving their outputs."),
    "recover": ("Control runs", "Save the outputs of a killed or interrupted run."),
    "label": ("Control runs", "Add a label to a run, or remove one."),
    "archive": ("Control runs", "Hide runs from `conjure ps`; nothing is deleted."),
    "unarchive": ("Control runs", "Show archived runs in `conjure ps` again."),
    "project": ("Control runs", "List and rename the projects that runs belong to."),
    "ls": ("Files", "List runs, uploads and their files."),
    "cp": ("Files", "Copy files out of a run or an upload."),
    "upload": ("Files", "Store a file or folder so that runs can mount it."),
    "link": ("Files", "Create a link to a resource, or list all links."),
    "unlink": ("Files", "Remove a link."),
    "rm": ("Files", "Delete the files of a run or an upload."),
    "verify": ("Files", "Check stored files against their digests."),
    "generate": ("Generate and fine-tune", "Generate text with a model."),
    "chat": ("Generate and fine-tune", "Chat with a model."),
    "finetune": ("Generate and fine-tune", "Fine-tune a model on your own text."),
    "report": ("Generate and fine-tune", "Show the report of a fine-tune, or compare several."),
    "score": ("Generate and fine-tune", "Compute the loss and perplexity of a text."),
    "serve": ("Generate and fine-tune", "Serve models through an OpenAI-compatible HTTP API."),
    "export": ("Generate and fine-tune", "Export a model for llama.cpp and other tools."),
    "models": ("Generate and fine-tune", "List, inspect and convert models."),
    "data": ("Generate and fine-tune", "Preview a text as a model will see it."),
    "demo": ("Generate and fine-tune", "Run a short demo: sample, fine-tune, sample again."),
    "config": ("Maintain", "Show and change settings."),
    "team": ("Maintain", "Share a home between machines."),
    "executors": ("Maintain", "List and check the clusters for --on."),
    "prune": ("Maintain", "Delete cached files that no run needs."),
    "doctor": ("Maintain", "Check conjure's home folder, database and tools."),
    "help": ("Help", "Show the help of a command."),
    "version": ("Help", "Show the version."),
    "completion": ("Help", "Print a shell completion script."),
}


_MOUNTS = ("mount", "mounts")  # names of the option that mounts a resource

# What a command is called elsewhere.
_ALIASES = {"hyper": "sweep"}

_COMMAND_IN_TEXT = re.compile(rf"\bconjure (?=(?:{'|'.join(COMMANDS)})\b)")

# What a job on a cluster's node calls: no command for people.
INTERNAL = "supervise"

# Commands that settings count for: their options have defaults that can be set, or they use a model.
CONFIGURED = (
    *("run", "jupyter"),
    *(f"{verb} {method}" for verb in ("sweep", "hyper") for method in ("grid", "random", "tpe", "bayesian")),
    *("generate", "chat", "finetune", "score", "serve", "data preview", "demo", "report"),
)
_ARGUMENTS = f"{__name__}.arguments"  # of the command, while the options before it are read

# Packages of the extras `generate` and `lm`: the run half is installed without them.
_GENERATE_PACKAGES = {"gguf", "jinja2", "numpy", "tokenizers"}
_LM_PACKAGES = _GENERATE_PACKAGES | {"huggingface_hub", "pyarrow", "safetensors", "torch"}
_GENERATING = ("chat", "generate", "score")  # the commands that the extra `generate` is enough for

# Packages of the `web` and `serve` extras.
_WEB_PACKAGES = {"jinja2", "markupsafe", "starlette", "uvicorn", "yaml"}
_SERVING = ("serve", "web")  # the commands that need them


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Every verb, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb's command, imported now; None for an unknown one."""
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS and cmd_name != INTERNAL:
            return None
        gc.disable()  # it would look through all that is imported again and again, and find no garbage
        try:
            return import_module(f"conjure.cli.commands.{cmd_name}").command
        finally:
            gc.enable()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb, its command, and its arguments, which are kept."""
        found = super().resolve_command(ctx, args)
        ctx.meta[_ARGUMENTS] = found[2]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The verbs by section, from the table alone."""
        for section in dict.fromkeys(section for section, _ in COMMANDS.values()):
            rows = [(verb, text) for verb, (home, text) in COMMANDS.items() if home == section]
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--home", metavar="NAME", help="Home to use: local, or the name of a team's home.")
@click.version_option(package_name="conjure")
@click.pass_context
def cli(context: click.Context, *, home: str | None) -> None:
    """Cast runs, tune language models."""
    if home is not None:
        take_home_option(
            [OPTION, home, *([context.invoked_subcommand] if context.invoked_subcommand else [])]
        )
    verb = context.invoked_subcommand
    if verb is None:
        click.echo(context.get_help())
    elif command_to_execute(context, [verb, *context.meta[_ARGUMENTS]]) in CONFIGURED:
        # What it imports would cost every other command its time.
        from conjure.cli.configured_defaults import configured_defaults

        context.default_map = configured_defaults(verb)


def main(*, interrupts: bool = False) -> None:
    """The installed command, once it is imported; never shows a traceback for what a user can mend.

    Args:
        interrupts: A ^C has ended the process until now, and is to be an exception while the command runs.
    """
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that is not UTF-8, or a terminal that cannot show a letter, must not end a listing.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = _run(sys.argv[1:], interrupts=interrupts)
    try:
        sys.stdout.flush()
    except OSError:  # it was told already
        _write_no_more(sys.stdout)
    if interrupts:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: a ^C now just ends what is left
    sys.exit(status)


def _run(arguments: list[str], *, interrupts: bool = False) -> int:
    # `conjure run` answers for a command of its own, so its own failures have a status apart: 125.
    own_failure = 125 if any(verb in _CARRIERS for verb in split_home_option(arguments)[1][:1]) else None
    try:
        arguments = take_home_option(arguments)
    except ConjureError as error:
        _show(error, arguments)
        return own_failure or error.exit_status
    stdout, status = sys.stdout, 0
    try:
        if interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        answer = _call(arguments)
        status = answer if isinstance(answer, int) else 0
        sys.stdout.flush()
        return status
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        with suppress(OSError):
            click.echo("Stopped.", err=True)
        return 130
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return 0  # click swaps stdout and exits when the reader (`| head`) has gone while we wrote
    except BrokenPipeError:
        _write_no_more(sys.stdout)  # the reader (`| head`) has what it wanted
        return status
    except Exception as error:  # noqa: BLE001 - the last net: whatever happens, it is told in one sentence
        status = _tell(error, arguments)
        return own_failure or status


def _tell(error: Exception, arguments: list[str]) -> int:
    """Say what went wrong; the exit status it has for every command but `conjure run`."""
    if isinstance(error, click.ClickException):
        _show(_in_our_form(error), arguments)
        return error.exit_code
    if isinstance(error, ConjureError):
        _show(error, arguments)
        return error.exit_status
    _write_no_more(sys.stdout)
    if isinstance(error, OSError):
        # Whatever reads and writes files names them; what is left is stdout.
        where = error.filename if error.filename else "the output cannot be written"
        _show(ConjureError(f"{where}: {error_text(error)}"), arguments)
        return 1
    # Collects what a report of the crash needs, which nothing else does.
    from conjure.cli.crash import EXIT_CRASHED, save_crash

    _show(save_crash(error, arguments), arguments)
    return EXIT_CRASHED


def _in_our_form(error: click.ClickException) -> ConjureError:
    """An error that click found in the command line, as all others are told."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and context is not None:
        options = [option for each in context.command.get_params(context) for option in each.opts]
        message, near = f"there is no option {error.option_name}", near_names(error.option_name, options)
    elif isinstance(error, click.NoSuchCommand) and context is not None:
        message, near = _no_such_command(error.command_name, context)
    elif isinstance(error, click.exceptions.NoArgsIsHelpError) and isinstance(error.ctx.command, click.Group):
        commands = ", ".join(error.ctx.command.list_commands(error.ctx))
        message, near = f"`{error.ctx.command_path}` needs a command: {commands}", []
    else:
        message, near = error.format_message().removesuffix("."), []
    return ConjureError(
        message[:1].lower() + message[1:] + (f"; did you mean {' or '.join(near)}?" if near else ""),
        fix=f"{context.command_path} --help" if context is not None else None,
    )


def _no_such_command(typed: str, group: click.Context) -> tuple[str, list[str]]:
    """What is said of an unknown command of conjure or of a group, and the nearest known ones."""
    path = group.command_path
    known = group.command.list_commands(group) if isinstance(group.command, click.Group) else []
    words = f"{path} {typed}".removeprefix("conjure ")
    return f"there is no command {words!r}", [f"`{path} {name}`" for name in near_names(typed, known)]


def _call(arguments: list[str]) -> object:
    try:
        return cli.main(args=arguments, prog_name="conjure", standalone_mode=False)
    except ModuleNotFoundError as error:
        verb = arguments[0] if arguments else ""
        if error.name in _WEB_PACKAGES and verb in _SERVING:
            raise ConjureError(
                f"this command needs the packages for serving; {error.name} is not installed",
                fix=install_command(verb),
            ) from error
        if error.name not in _LM_PACKAGES:
            raise
        is_enough = verb in _GENERATING and error.name in _GENERATE_PACKAGES
        raise ConjureError(
            f"this command needs the language-model packages; {error.name} is not installed",
            fix=install_command("generate" if is_enough else "lm"),
        ) from error
    except (MemoryError, RuntimeError) as error:
        told = out_of_memory(error)
        if told is None:
            raise
        raise told from error


def _open_closed_streams() -> None:
    """Give a stream that the caller closed (``>&-``), where Python has None, a place to lead to.

    What is written to a closed stdout is an error, as with every other program, so the descriptor can only be
    read; nobody would hear of an error on stderr, so there all is well.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if opened != number:  # never let a database or a log take one of these three numbers
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def _write_no_more(stream: TextIO) -> None:
    """Drop what a stream still holds: it could not be written, and must not raise again at exit."""
    with suppress(OSError, ValueError):  # a stream without a descriptor, in tests and inside other programs
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show(error: ConjureError, arguments: Sequence[str]) -> None:
    try:
        told = error.with_option_names(spell_as_typed(_command_of(arguments)[0], arguments))
        click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(told.message)}", err=True)
        if told.fix and told.fix.startswith("-") and inside_a_run():
            # What was typed is outside, and names files and models as they are called there.
            told = told._replace(hint="; ".join(filter(None, (told.hint, f"use {told.fix}"))), fix=None)
        if told.hint:
            hint = _COMMAND_IN_TEXT.sub(lambda found: with_home(found[0]), printable(told.hint))
            click.echo(f"{click.style('  hint:', bold=True)} {hint}", err=True)
        line = _command_line(told.fix, arguments) if told.fix else None
        if line is not None:
            click.echo(f"{click.style('  try:', bold=True)} {with_home(printable(line))}", err=True)
    except OSError:  # stderr cannot be written either; the exit status still tells
        _write_no_more(sys.stderr)


def _command_of(arguments: Sequence[str]) -> tuple[click.Command, int]:
    """The command that was typed, down to the last of a group's, and how many words name it."""
    command: click.Command = cli
    verbs = 0
    for word in arguments:
        found = (
            command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        )
        if found is None:
            break
        command, verbs = found, verbs + 1
    return command, verbs


def _command_line(fix: str, arguments: Sequence[str]) -> str | None:
    """The fix as a whole command: options join the command that was typed, after what they correct.

    None where that command cannot be corrected so.
    """
    if not fix.startswith("-") or not arguments:
        return fix
    inner = _inner_command(fix, arguments)
    if inner is not None:
        line = _command_line(fix, arguments[inner + 1 :])
        return None if line is None else f"{shell_words('conjure', *arguments[:inner])} {line}"
    name, *values = shlex.split(fix)
    option = _options_of(_command_of(arguments)[0]).get(name)
    if option is None:
        return None
    if option.name in _MOUNTS:
        return _with_local_file(option, values[0], arguments)
    kept, rest = _without_corrected(fix, arguments)
    after = f" {shell_words(*rest)}" if rest else ""
    return f"{shell_words('conjure', *kept)} {fix}{after}"


def _inner_command(fix: str, arguments: Sequence[str]) -> int | None:
    """Where the command of conjure begins that a sweep was given, if the fix is that one's option alone."""
    option = shlex.split(fix)[0]
    outer, verbs = _command_of(arguments)
    if outer.context_settings.get("allow_interspersed_args", True) or option in _options_of(outer):
        return None
    for place in range(verbs, len(arguments) - 1):
        if arguments[place] == "conjure" and option in _options_of(_command_of(arguments[place + 1 :])[0]):
            return place
    return None


def _options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by each of their names."""
    return {name: each for each in command.params if isinstance(each, click.Option) for name in each.opts}


def _without_corrected(fix: str, arguments: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """What was typed without the options that the fix gives another value; and what the fix must precede."""
    command, verbs = _command_of(arguments)
    options = _options_of(command)
    corrected = [options[word] for word in shlex.split(fix) if word in options]
    # What follows the options of some commands is another program, with options of its own.
    ends_at_first = not command.context_settings.get("allow_interspersed_args", True)
    kept, place = list(arguments[:verbs]), verbs
    while place < len(arguments):
        word = arguments[place]
        if word == "--" or (ends_at_first and not word.startswith("-")):
            break
        name, equals, _ = word.partition("=")
        option = options.get(name)
        width = 1 if option is None or equals or option.is_flag else 1 + option.nargs
        if option is None or option.multiple or option not in corrected:
            kept += arguments[place : place + width]
        place += width
    return kept, arguments[place:]


def _with_local_file(option: click.Option, file: str, arguments: Sequence[str]) -> str | None:
    """The typed command with a local file as a mount wants it, ``./FILE``; None if it was not typed."""
    typed = re.compile(rf"{re.escape(file.removeprefix('./'))}(:.*)?", re.DOTALL)
    joined = ["", *(f"{each}=" if each.startswith("--") else each for each in option.opts)]
    for place, word in enumerate(arguments):
        names = joined[:1] if place and arguments[place - 1] in option.opts else joined[1:]
        for name in names:
            if word.startswith(name) and typed.fullmatch(word.removeprefix(name)):
                new = f"{name}./{word.removeprefix(name)}"
                return shell_words("conjure", *arguments[:place], new, *arguments[place + 1 :])
    return None
