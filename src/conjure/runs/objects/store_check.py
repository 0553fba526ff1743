"""What an object store can do, tried out.

Main entry: `probe`. Invariant: what it writes it removes again.
"""

import secrets
from dataclasses import dataclass
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

from conjure.runs.objects.base import MissingObjectError, ObjectsError
from conjure.runs.objects.remote import RemoteObjects


@dataclass(frozen=True, slots=True)
class Abilities:
    """What was found.

    Attributes:
        refuses_to_overwrite: Whether it can be told not to write over an object. Nothing relies on it.
    """

    refuses_to_overwrite: bool

    def in_words(self) -> str:
        """As a person reads it."""
        refuses = "yes" if self.refuses_to_overwrite else "no (not needed)"
        return f"reads, writes, lists and deletes; conditional writes: {refuses}"


def probe(objects: RemoteObjects) -> Abilities:
    """Write, read, list and remove an object.

    Raises:
        ObjectsError: It cannot do that, or returns other bytes than were written.
    """
    name, content = f"probe/{secrets.token_hex(8)}", secrets.token_bytes(1024)
    objects.put(name, content)
    try:
        if objects.get(name) != content or objects.get_range(name, 100, 10) != content[100:110]:
            raise ObjectsError(f"{objects.address} returns different bytes from those that were written")
        if name not in list(objects.names("probe")):
            raise ObjectsError(f"{objects.address} does not list an object right after it was written")
        refuses = _refuses_to_overwrite(objects, name)
    finally:
        objects.delete([name])
    try:
        objects.get(name)
    except MissingObjectError:
        return Abilities(refuses)
    raise ObjectsError(f"{objects.address} still has an object that was deleted")


def _refuses_to_overwrite(objects: RemoteObjects, name: str) -> bool:
    store: Any = objects.store
    try:
        obstore.put(store, name, b"again", mode="create")
    except (AlreadyExistsError, PreconditionError):
        return True
    except (BaseError, NotSupportedError):
        return False
    return False
