"""Which home a command is for: the local one, or one of a team's that the user gave a name.

Main entries: `take_home_option`, `find_home`, `find_team_home`, `with_home`. Invariant: a home is chosen by
setting the variable that every part of conjure, and every run, finds its home by.
"""

import os
import re
from collections.abc import Sequence

from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.team_settings import read_team
from conjure.core.text import did_you_mean
from conjure.errors import UsageError, option

OPTION = "--home"
LOCAL = "local"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")
_MAKES_HOMES = "team"  # the command that begins with a home that is not there yet


def take_home_option(arguments: Sequence[str]) -> list[str]:
    """Use the home that ``--home NAME`` before the command names; the arguments without it.

    Raises:
        UsageError: There is no such home.
    """
    name, rest = split_home_option(arguments)
    if name is not None:
        home = find_home(name, may_be_new=rest[:1] == [_MAKES_HOMES])
        os.environ[HOME_VARIABLE] = str(home.root)
    return rest


def split_home_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name that ``--home`` before the command gives, None without it; and the other arguments."""
    first, *rest = arguments or [""]
    if first == OPTION and rest:
        return rest[0], rest[1:]
    if first.startswith(f"{OPTION}="):
        return first.partition("=")[2], rest
    return None, list(arguments)


def find_home(name: str, *, may_be_new: bool = False) -> Home:
    """The home of a name.

    Raises:
        UsageError: There is none, or it cannot be a name.
    """
    here = Home.from_environment()
    if name == LOCAL:
        return here.local
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a home: use letters, digits and . _ -")
    known = here.names()
    if name not in known and not may_be_new:
        others = ", ".join([LOCAL, *known])
        near = did_you_mean(name, known) or (f"available: {others}" if known else f"there is only {LOCAL}")
        raise UsageError(
            f"there is no home {name!r}; {near}",
            hint=f"to make it a team's: conjure --home {name} team join {option('database', 'ADDRESS')}",
        )
    return here.named(name)


def find_team_home(identity: str) -> Home | None:
    """The home that has joined a team, the local one or one with a name; None if none has.

    Args:
        identity: The team, as `TeamSettings.identity` has it.

    Raises:
        StoreError: It cannot be told.
    """
    local = Home.from_environment().local
    for home in (local, *map(local.named, local.names())):
        team = read_team(home)
        if team is not None and team.identity == identity:
            return home
    return None


def with_home(line: str) -> str:
    """A command to type next, for the home that was chosen."""
    name = Home.from_environment().name
    if name == LOCAL or not line.startswith("conjure ") or line.startswith(f"conjure {OPTION}"):
        return line
    return line.replace("conjure ", f"conjure {OPTION} {name} ", 1)
