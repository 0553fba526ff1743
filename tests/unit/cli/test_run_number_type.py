"""Run numbers as people type them."""

import click
import pytest

from conjure.cli.main import _run, cli
from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.runs.artifacts.resource_paths import check_link_name, parse, pin
from conjure.runs.database.sqlite import SqliteDatabase
from support.casting import add_run
from support.homes import add_outputs


@pytest.fixture
def home(conjure_home):
    home = Home(conjure_home).create()
    with SqliteDatabase.open(home) as store:
        for command in ("echo one", "echo two", "echo three"):
            add_run(store, command)
    return home


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("2", 2),
        ("#2", 2),
        ("runs/2", 2),
        ("last", 3),
        ("last~1", 2),
        ("last~2", 1),
        ("runs/last~2", 1),
        ("", 3),
    ],
)
def test_runs_by_number_and_from_the_last(home, capsys, typed, number):
    for verb in ("info", "logs"):
        assert _run([verb, *([typed] if typed else [])]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"run        {number}\n")
    assert err == f"Run {number} has printed nothing yet\n"


@pytest.mark.parametrize("typed", ["last~3", "last~999999999"])
def test_there_are_only_so_many(home, capsys, typed):
    assert _run(["info", typed]) == 1
    assert capsys.readouterr().err == f"error: there is no run {typed}; there are only 3\n  try: conjure ps\n"


@pytest.mark.parametrize("typed", ["last~", "last~-1", "last~1.5", "last1", "LAST", "~1", "0", "last~~1"])
def test_what_names_no_run(home, capsys, typed):
    assert _run(["info", typed]) == 2
    assert "is not a run number" in capsys.readouterr().err


def test_the_last_run_of_none(conjure_home, capsys):
    assert _run(["info"]) == 1
    assert (
        capsys.readouterr().err == "error: there is no run last; there are no runs yet\n  try: conjure ps\n"
    )


def test_resources_of_the_last_run(home):
    add_outputs(home, 2, {"a/b.txt": "x"})
    with SqliteDatabase.open(home) as store:
        for text in ("last~1/a/b.txt", "runs/last~1/a/b.txt", "runs/last~1//a/./b.txt"):
            assert str(parse(text, store.lookup_link)) == "runs/2/a/b.txt"
            assert pin(home, text, store.lookup_link) == "runs/2/a/b.txt"
        with pytest.raises(NotFoundError, match="there is no run last~7; there are only 3"):
            parse("runs/last~7/a", store.lookup_link)


@pytest.mark.parametrize("name", ["last", "Last", "last~1", "ｌａｓｔ"])
def test_no_link_takes_such_a_name(name):
    with pytest.raises(UsageError, match="cannot be the name of a link"):
        check_link_name(name)


def commands(group, path=()):
    """Every command and group, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_no_number_is_larger_than_what_it_is_given_to_takes():
    for path, command in commands(cli):
        for parameter in command.params:
            has_no_end = isinstance(parameter.type, click.IntRange) and parameter.type.max is None
            is_argument = isinstance(parameter, click.Argument) and parameter.type is click.INT
            unbounded = has_no_end or is_argument  # values of other options are checked where they are used
            assert not unbounded, f"{' '.join(path)} {parameter.name}: give it a WholeNumber"


@pytest.mark.parametrize(
    "line",
    [
        *(f"sweep {verb} N" for verb in ("show", "stop", "resume", "best", "export")),
        *("sweep resume 1 -n N", "ps -n N", "logs 1 -n N", "logs 1 -f -n N", "logs 1 --attempt N"),
    ],
)
def test_a_number_that_is_too_large_is_refused(home, capsys, line):
    assert _run([word.replace("N", "9" * 19) for word in line.split()]) == 2
    assert "is not from " in capsys.readouterr().err
