"""Everything a user can name is documented, and nothing that is named is missing."""

import os
import re
import subprocess
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click
import pytest

import conjure
from conjure import errors
from conjure.cli.main import COMMANDS, INTERNAL, cli
from conjure.core.config import SETTINGS
from conjure.core.home import Home
from conjure.runs.schema.status import EndReason, RunStatus
from support.pages import DOCS, PAGES, REPOSITORY, load_script

COMMAND_LINE = list(load_script("docs").walk_commands())


ERRORS = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ConjureError)
]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_a_command_of_its_own_module(verb):
    module = import_module(f"conjure.cli.commands.{verb.replace('-', '_')}")
    assert isinstance(module.command, click.Command)


def test_every_module_of_commands_is_a_verb():
    modules = {path.stem for path in (REPOSITORY / "src/conjure/cli/commands").glob("[a-z]*.py")}
    assert modules == {verb.replace("-", "_") for verb in (*COMMANDS, INTERNAL)}


@pytest.mark.parametrize(("name", "command"), COMMAND_LINE, ids=[name for name, _ in COMMAND_LINE])
def test_every_command_and_option_has_help_and_is_documented(name, command):
    section = _section(name)
    assert command.help, f"conjure {name} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{parameter.opts} of conjure {name} has no help"
            for flag in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section), f"{flag} of {name}"


@pytest.mark.parametrize(("name", "command"), COMMAND_LINE, ids=[name for name, _ in COMMAND_LINE])
def test_a_letter_in_the_help_of_an_option_is_its_placeholder(name, command):
    # A command keeps the help option that it is first asked for: -h as well, as below `conjure`.
    context = click.Context(command, info_name=name, parent=click.Context(cli, **cli.context_settings))
    assert "…" not in " ".join(command.collect_usage_pieces(context))
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            placeholder, help_text = record[0], parameter.help or ""
            letters = set(re.findall(r"(?<![\w.-])[B-Z](?![\w.-])", help_text))
            others = re.findall(r"-[\w-]+ ([B-Z])\b", help_text)  # of options that it names
            assert letters <= {*re.findall(r"\b[B-Z]\b", placeholder), *others}, f"{placeholder}: {help_text}"


def test_the_options_before_a_command_are_documented():
    section = _section("")
    for parameter in cli.get_params(click.Context(cli, **cli.context_settings)):
        for flag in parameter.opts:
            assert re.search(rf"`.*{re.escape(flag)}\b.*` \|", section), flag


def _section(name):
    text = (DOCS / "cli.md").read_text()
    heading = f"\n## conjure {name}".rstrip() + "\n"
    assert heading in text
    return text.split(heading)[1].split("\n## ")[0]


def test_every_path_in_the_home_folder_is_explained(tmp_path):
    home = Home(tmp_path)
    paths = [getattr(home, name) for name in vars(Home) if isinstance(vars(Home)[name], property)]
    found = {path.name for path in paths if isinstance(path, Path) and path.parent == home.root}
    table = (DOCS / "configuration.md").read_text().partition("\n## The home folder\n")[2]
    named = {name.partition("/")[0] for name in re.findall(r"`([^`]+)`", table)}
    assert {"conjure.db", "runs"} < found
    assert found <= named


@pytest.mark.parametrize("name", conjure.__all__)
def test_every_public_name_is_explained(name):
    table = (DOCS / "python.md").read_text().split("\n## ")[0]
    assert f"[`{name}`]" in table
    assert getattr(conjure, name).__doc__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_listed_with_its_code_and_status(error):
    row = f"| `{error.__name__}` | `{error.code}` | {error.exit_status} | "
    assert row in (DOCS / "errors.md").read_text()


def test_no_two_errors_share_a_code():
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))


def test_no_error_is_listed_that_does_not_exist():
    listed = re.findall(r"^\| `(\w+)` \| `\w+` \| \d", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(error.__name__ for error in ERRORS)


def test_every_variable_is_listed():
    source = "\n".join(path.read_text() for path in (REPOSITORY / "src").rglob("*.py"))
    used = set(re.findall(r"\bCONJURE_[A-Z][A-Z_]*[A-Z]\b", source))
    listed = set(re.findall(r"`(CONJURE_[A-Z_]+)`", (DOCS / "configuration.md").read_text()))
    assert listed == used


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_listed(setting):
    rows = [line.split(" | ")[0] for line in (DOCS / "configuration.md").read_text().splitlines()]
    assert any(f"`{setting}`" in row for row in rows if row.startswith("| `"))


@pytest.mark.parametrize("status", RunStatus)
def test_every_status_is_explained(status):
    assert f"\n| `{status}` | " in (DOCS / "run-states.md").read_text()


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_reason_is_explained_with_its_status(reason):
    assert f"\n| `{reason}` | `{reason.status}` | " in (DOCS / "run-states.md").read_text()


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    missing = [
        page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index
    ]
    assert not missing


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(int(page.name[:4]) for page in (DOCS / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_page_shows_a_path_of_a_machine_or_a_traceback(page):
    text = page.read_text()
    assert not re.search(r"/(?:root|tmp|work|home/\w+)/", text)
    assert os.uname().nodename not in text
    assert "Traceback (most recent call last)" not in text


def test_the_changelog_begins_with_what_is_unreleased_then_the_newest_release():
    headings = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    release, _, development = version("conjure").partition(".dev")
    assert headings[0] == "Unreleased"
    assert (headings[1] == f"[{release}]") is not bool(development)


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 150


def test_help_and_docs_agree_on_what_make_can_do():
    described = re.findall(r"^make ([\w-]+)", (DOCS / "development.md").read_text(), re.MULTILINE)
    for target in described:
        done = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
