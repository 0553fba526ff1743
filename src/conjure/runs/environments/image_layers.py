"""Images with packages added for runs: each is built once, and used by all runs that ask for the same.

Such a layer is an image of the engine's that stands on the one that was asked for. The home has a record of
it in ``environments/images/<digest>.json``, where the digest is of everything that was asked for: the content
of the image below, and the packages.

Main entries: `requested_digest`, `find_layer`, `prune`. Invariant: a layer that has a record is complete.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.files import parse_json, sha256_bytes, write_atomically
from conjure.core.home import Home
from conjure.errors import BuildError
from conjure.runs.environments.container_engine import run_engine
from conjure.runs.environments.environment_locks import unused
from conjure.runs.environments.images import Image, find_image
from conjure.runs.schema.spec import EnvironmentChoice

_FORMAT = 1
_DIGEST = re.compile("[0-9a-f]{32}")
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Layer:
    """An image with packages added.

    Attributes:
        digest: What it was made from, in one word; equal for equal requests.
        image: It.
        packages: Version of every Python package in it, if any was added.
        added_bytes: Its size without the image below.
    """

    digest: str
    image: Image
    packages: Mapping[str, str] = field(default_factory=dict)
    added_bytes: int = 0


def requested_digest(base: Image, choice: EnvironmentChoice) -> str:
    """What is asked for, in one word: the image itself, or what is to be made from it.

    Args:
        base: The image that was asked for.
        choice: What is to be added.
    """
    if not choice.adds_packages:
        return base.digest
    asked = {
        "format": _FORMAT,
        "image": base.digest,
        "apt": sorted(set(choice.apt)),
        "pip": sorted(name.strip() for name in choice.pip),
        "requirements": (choice.requirements or "").strip(),
    }
    return sha256_bytes(json.dumps(asked, sort_keys=True).encode())[:32]


def find_layer(home: Home, digest: str) -> Layer | None:
    """The layer that was built from a request, if it is still there.

    Raises:
        BuildError: The engine does not work.
    """
    record = _read_record(_record_file(home, digest))
    image = None if record is None else find_image(record.image.digest)
    return None if record is None or image is None else Layer(digest, image, record.packages)


def keep_layer(home: Home, layer: Layer) -> None:
    """Write down that a layer is complete.

    Raises:
        BuildError: The home's folder cannot be written.
    """
    file = _record_file(home, layer.digest)
    record = {
        "format": _FORMAT,
        "image": layer.image.digest,
        "packages": dict(layer.packages),
        "added_bytes": layer.added_bytes,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(record, indent=1))
    except OSError as error:
        raise BuildError(f"{file} cannot be written: {error.strerror}") from error


def prune(home: Home, needed: set[str]) -> tuple[int, int]:
    """Remove layers but those `needed` or in use; the images below them stay.

    Returns:
        How many, and their bytes.

    Raises:
        BuildError: The engine does not work, or does not remove one of them.
    """
    count, size = 0, 0
    folder = _record_file(home, "").parent
    for file in sorted(folder.glob(f"*{_SUFFIX}")):
        if not _DIGEST.fullmatch(file.stem) or file.stem in needed:
            continue
        with unused(home, file.stem) as is_free:
            if is_free:
                record = _read_record(file)
                if record is not None and find_image(record.image.digest) is not None:
                    run_engine(["rmi", "--no-prune", record.image.digest])
                    size += record.added_bytes
                file.unlink()
                count += 1
    return count, size


def _record_file(home: Home, digest: str) -> Path:
    return home.environments / "images" / f"{digest}{_SUFFIX}"


def _read_record(file: Path) -> Layer | None:
    """The layer as it was written down."""
    try:
        record = parse_json(file.read_bytes())
        if record["format"] != _FORMAT:
            return None
        return Layer(file.stem, Image(record["image"]), record["packages"], record["added_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
