"""The container image that a run asks for: found on this machine, or fetched.

Main entry: `prepare_image`. Invariant: an image is known by the digest of its content, so that a name that
has come to mean another image since makes no run a different one.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conjure.errors import BuildError
from conjure.runs.environments.container_engine import find_engine, run_engine
from conjure.runs.schema.spec import EnvironmentChoice

_SHA256 = "sha256:"
_ID = re.compile(r"(sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this machine.

    Attributes:
        digest: Of its content; the engine takes it for a name.
        variables: The environment variables that it sets.
        size_bytes: Its size, with that of the images it stands on.
    """

    digest: str
    variables: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0


def prepare_image(choice: EnvironmentChoice, report: Callable[[str], None] | None = None) -> Image:
    """The image that was asked for, which is fetched if it is not here.

    Args:
        choice: What was asked for.
        report: Gets each line of progress.

    Raises:
        BuildError: It is neither here nor can be fetched, or containers are not possible here.
    """
    name = choice.image
    assert name is not None
    wanted = choice.image_digest or name
    image = find_image(wanted)
    if image is None and _ID.fullmatch(wanted):
        raise BuildError(
            f"image {_named(choice)} is not on this machine",
            hint=f"{find_engine().name} images lists those that are",
        )
    if image is None:
        try:
            run_engine(["pull", name], report=report)
        except BuildError as error:
            raise BuildError(f"image {name} cannot be fetched: {error.unspelled.message}") from error
        image = find_image(name)
    if image is None:
        raise BuildError(f"image {name} was removed while it was being fetched")
    return image


def find_image(name: str, engine: str | None = None) -> Image | None:
    """The image of that name or digest on this machine, or None.

    Args:
        name: The name or digest.
        engine: Where to look; in the engine that runs use if None.

    Raises:
        BuildError: The engine does not work.
    """
    try:
        told = run_engine(["image", "inspect", name], name=engine)
    except BuildError:
        run_engine(["version"], name=engine)  # if the engine does not work at all, that is what is to be said
        return None
    found: dict[str, Any] = json.loads(told)[0]
    pairs = (text.partition("=") for text in found.get("Config", {}).get("Env") or ())
    return Image(
        _SHA256 + found["Id"].removeprefix(_SHA256),
        {name: value for name, _, value in pairs},
        found.get("Size", 0),
    )


def _named(choice: EnvironmentChoice) -> str:
    """An image's name with its digest, where the name alone is not what is meant."""
    if choice.image_digest is None:
        return str(choice.image)
    return f"{choice.image} ({choice.image_digest})"
