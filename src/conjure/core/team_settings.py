"""What a home knows of the team that it belongs to: the file ``team.json`` in its folder.

Main entries: `read_team`, `objects_team`, `write_team`. Invariant: no password and no key is in it; who needs
one finds it in the user's own files and variables.
"""

import json
from dataclasses import asdict, dataclass

from conjure.core.files import parse_json, sha256_bytes, write_atomically
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import StoreError

_FORMAT = 2
_FORMAT_WITHOUT_OBJECTS = 1  # as versions before object stores wrote it, and still read it


@dataclass(frozen=True, slots=True)
class TeamSettings:
    """Where a team's records and files are.

    Attributes:
        database: Address of the PostgreSQL database, without a password.
        objects: Address of the object store; None where the home's folder is on a disk that all share.
        member: Who this home is among those that share the records; "" where all share its folder.
    """

    database: str
    objects: str | None = None
    member: str = ""

    @property
    def identity(self) -> str:
        """Tells the team from others, the same in the home of each member: a digest, which says nothing."""
        return sha256_bytes((self.objects or self.database).encode())[:8]


def read_team(home: Home) -> TeamSettings | None:
    """The team of a home; None for a home of its own.

    Raises:
        StoreError: The file that says so cannot be read, or a newer conjure wrote it.
    """
    try:
        stored = parse_json(home.team_file.read_bytes())
        if stored["format"] > _FORMAT:
            raise StoreError(
                f"{home.team_file} was written by a newer version of conjure", hint="upgrade conjure"
            )
        objects = stored.get("objects")
        return TeamSettings(
            str(stored["database"]), None if objects is None else str(objects), str(stored.get("member", ""))
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{home.team_file}, which says where this home's records are stored, cannot be read:"
            f" {error_text(error)}"
        ) from error


def objects_team(home: Home) -> TeamSettings | None:
    """The team of a home that has its files in an object store; None for every other home.

    Raises:
        StoreError: It cannot be told.
    """
    team = read_team(home)
    return team if team is not None and team.objects is not None else None


def write_team(home: Home, settings: TeamSettings) -> None:
    """Have a home belong to a team from now on.

    Raises:
        OSError: It cannot be written.
    """
    if settings.objects is None:
        stored = {"format": _FORMAT_WITHOUT_OBJECTS, "database": settings.database}
    else:
        stored = {"format": _FORMAT, **asdict(settings)}
    write_atomically(home.team_file, json.dumps(stored) + "\n", mode=0o600)
