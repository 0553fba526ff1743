"""Writes the parts of docs/ that follow from the code: the command line, a run's moves, the map of the code.

Main entry: `main` (``make docs``); with ``--check`` nothing is written, and the exit status is 1 if something
is out of date. Invariant: what is written depends on the code alone, not on the terminal or the machine.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from conjure.cli.main import COMMANDS, cli
from conjure.runs.schema.status import MOVES, PHASES, RunStatus

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HEADER = "<!-- Made by `make docs` (scripts/docs.py) from the code: do not edit. -->"
EARLIER_NAME = "Earlier name of "  # so begins what a module says that only passes a moved one on
END = "<!-- end of what `make docs` makes -->"


def main(arguments: list[str]) -> int:
    """Write what is out of date, or with ``--check`` only name it."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"docs/{path.relative_to(DOCS)} is out of date; type: make docs\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(generated()[path])
    return 0


def generated() -> dict[Path, str]:
    """Every file of docs/ that is made here, or has a part that is, with its content."""
    states, development = DOCS / "run-states.md", DOCS / "development.md"
    return {
        DOCS / "cli.md": command_line(),
        states: _with_part(states.read_text(), move_diagram()),
        development: _with_part(development.read_text(), code_map()),
    }


def command_line() -> str:
    """The command line, a section for each command."""
    return "\n".join([HEADER, "", *_command_line()]).rstrip() + "\n"


def move_diagram() -> str:
    """Which status a run can go to from which: the table `conjure.runs.schema.status.MOVES`, drawn."""
    finals = [status for status in RunStatus if status.is_final]
    margin = max(map(len, finals))
    lines = ["```text", f"{'':<{margin}}  {' → '.join(PHASES)}"]
    for final in finals:
        marks = ("●" if final in MOVES[phase] else "·" for phase in PHASES)
        cells = (mark.center(len(phase)) for phase, mark in zip(PHASES, marks, strict=True))
        lines.append(f"{final:<{margin}}  {'   '.join(cells)}".rstrip())
    return "\n".join([*lines, "```"])


def code_map() -> str:
    """Every folder of the code with what it is for and its modules, in the order of the import contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    return "\n\n".join(map(_layers, contracts))


def _layers(contract: dict) -> str:
    """One contract of layers: the chain, then a row for each folder or module in it."""
    (container,) = contract["containers"]
    chain = "  →  ".join(contract["layers"])
    rows = [
        f"`{container}`:",
        "",
        "```text",
        chain,
        "```",
        "",
        "| | purpose | modules |",
        "|---|---|---|",
    ]
    for layer in contract["layers"]:
        rows += [_map_row(container, name.strip()) for name in layer.split("|")]
    return "\n".join(rows)


def _map_row(container: str, name: str) -> str:
    place = ROOT / "src" / container.replace(".", "/") / name
    if not place.is_dir():
        return f"| `{name}` | {_first_line(place.with_suffix('.py'))} | |"
    inside = sorted(each for each in place.iterdir() if _is_code(each))
    names = [_map_name(each) for each in inside]
    return f"| `{name}/` | {_first_line(place / '__init__.py')} | {' '.join(f'`{each}`' for each in names)} |"


def _map_name(path: Path) -> str:
    if path.is_dir():
        return f"{path.stem}/"
    return path.stem if path.suffix == ".py" else path.name  # a C source may be called like a module


def _is_code(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").exists()
    return (
        not path.is_symlink()
        and path.suffix in {".py", ".c", ".h"}
        and path.stem not in {"__init__", "__main__"}
        and not (path.suffix == ".py" and _first_line(path).startswith(EARLIER_NAME))
    )


def _first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def walk_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name, such as ``models convert``, in the order of the table."""
    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            yield from _walk(name, command)


def _walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for verb, inner in sorted(command.commands.items()):
            yield from _walk(f"{name} {verb}", inner)


def _with_part(text: str, part: str) -> str:
    """`text` with what stands between the two markers replaced."""
    before, rest = text.split(HEADER, 1)
    return f"{before}{HEADER}\n{part}\n{END}{rest.split(END, 1)[1]}"


def _command_line() -> Iterator[str]:
    yield "# The command line"
    yield ""
    yield "Every command and option. `conjure COMMAND --help` shows the same in a terminal."
    for section in dict.fromkeys(section for section, _ in COMMANDS.values()):
        yield ""
        yield f"**{section}**: " + " · ".join(
            f"[{name}](#conjure-{name})" for name, (home, _) in COMMANDS.items() if home == section
        )
    yield ""
    above = click.Context(cli, info_name="conjure", **cli.context_settings)
    yield from _section("conjure", above, cli.get_params(above))  # with the options that every command has
    for name, command in walk_commands():
        # A command keeps the help option that it is first asked for: -h as well, as below `conjure`.
        context = click.Context(command, info_name=name, parent=above)
        yield from _section(f"conjure {name}", context, command.params)


def _section(title: str, context: click.Context, parameters: Sequence[click.Parameter]) -> Iterator[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {title}", "", "```", f"{title} {usage}".rstrip(), "```", "")
    yield from _paragraphs(command.help)
    rows = list(_options(parameters, context))
    if rows:
        yield from ("| option | meaning |", "|---|---|", *rows, "")
    yield from _paragraphs(command.epilog)


def _paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in (text or "").replace("\b", "").strip().split("\n\n"):
        if paragraph:
            yield from (" ".join(paragraph.split()), "")


def _options(parameters: Sequence[click.Parameter], context: click.Context) -> Iterator[str]:
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            yield _row(*record)


def _row(names: str, meaning: str) -> str:
    cells = (f"`{names}`", " ".join(meaning.split()))
    return "| {} | {} |".format(*(cell.replace("|", r"\|") for cell in cells))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
