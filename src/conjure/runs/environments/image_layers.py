"""Images with packages added for runs: each is built once, and used by all runs that ask for the same.

Such a layer is an image of the engine's that stands on the one that was asked for. The home has a record of
it in ``environments/images/<digest>.<engine>.json``, where the digest is of everything that was asked for:
the content of the image below, and the packages. Podman and docker each have their own images.

Main entries: `requested_digest`, `layer_digest`, `find_layer`, `prune`. Invariant: a layer that has a record
is complete.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from conjure.core.files import parse_json, sha256_bytes, write_atomically
from conjure.core.home import Home
from conjure.core.text import error_text, plural
from conjure.errors import BuildError
from conjure.runs.environments.container_engine import DOCKER, PODMAN, find_engine, run_engine
from conjure.runs.environments.environment_locks import unused
from conjure.runs.environments.images import Image, find_image
from conjure.runs.environments.pip_config import settings_digest
from conjure.runs.environments.pip_requirements import has_versions
from conjure.runs.schema.spec import EnvironmentChoice

_FORMAT = 1
_RECORD_NAME = re.compile(rf"(?P<digest>[0-9a-f]{{32}})\.(?P<engine>{PODMAN}|{DOCKER})\.json")


@dataclass(frozen=True, slots=True)
class PrunedLayers:
    """What `prune` did.

    Attributes:
        count: How many layers are gone.
        size_bytes: Their size.
        not_done: What could not be removed, and why, one sentence each.
    """

    count: int
    size_bytes: int
    not_done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """An image with packages added.

    Attributes:
        digest: What it was made from, in one word; equal for equal requests.
        image: It.
        packages: Version of every Python package in it, if any was added.
        added_bytes: Its size without the image below.
        resolved: Which of these packages pip added or changed; None if nobody knows.
    """

    digest: str
    image: Image
    packages: Mapping[str, str] = field(default_factory=dict)
    added_bytes: int = 0
    resolved: tuple[str, ...] | None = None


def requested_digest(base: Image, choice: EnvironmentChoice, settings: str | None = None) -> str:
    """What is asked for, in one word: the image itself, or what is to be made from it.

    Args:
        base: The image that was asked for.
        choice: What is to be added.
        settings: The digest of pip's settings that decide which packages are chosen, if there are any.
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
    if choice.constraints:
        asked["constraints"] = sorted(choice.constraints)
    if settings is not None:
        asked["settings"] = settings
    return sha256_bytes(json.dumps(asked, sort_keys=True).encode())[:32]


def layer_digest(home: Home, base: Image, choice: EnvironmentChoice, variables: Mapping[str, str]) -> str:
    """What a run gets, in one word: what it asks for, or the same without versions if that has them anyway.

    Args:
        base: The image that was asked for.
        choice: What is to be added.
        variables: The caller's environment, with pip's settings.

    Raises:
        BuildError: The engine does not work.
    """
    settings = None
    if choice.adds_python_packages:
        settings = settings_digest(home, Path(sys.executable), Path(sys.prefix), variables)
    if choice.constraints:
        digest = requested_digest(base, replace(choice, constraints=()), settings)
        layer = find_layer(home, digest)
        if layer is not None and has_versions(layer.packages, choice.constraints):
            return digest
    return requested_digest(base, choice, settings)


def find_layer(home: Home, digest: str) -> Layer | None:
    """The layer that was built from a request, if it is still there.

    Raises:
        BuildError: The engine does not work.
    """
    record = _read_record(_record_file(home, digest, find_engine().name), digest)
    image = None if record is None else find_image(record.image.digest)
    if record is None or image is None:
        return None
    return Layer(digest, image, record.packages, resolved=record.resolved)


def keep_layer(home: Home, layer: Layer) -> None:
    """Write down that a layer is complete.

    Raises:
        BuildError: The home's folder cannot be written.
    """
    file = _record_file(home, layer.digest, find_engine().name)
    record = {
        "format": _FORMAT,
        "image": layer.image.digest,
        "packages": dict(layer.packages),
        "added_bytes": layer.added_bytes,
        "resolved": layer.resolved,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(record, indent=1))
    except OSError as error:
        raise BuildError(f"{file} cannot be written: {error_text(error)}") from error


def prune(home: Home, needed: set[str]) -> PrunedLayers:
    """Remove layers but those `needed` or in use, in whichever engine they are; the images below them stay.

    A layer that cannot be removed keeps its record, so that it can be later.
    """
    count, size = 0, 0
    left: Counter[tuple[str, str]] = Counter()
    for file in sorted(_records(home).glob("*.json")):
        name = _RECORD_NAME.fullmatch(file.name)
        if name is None or name["digest"] in needed:
            continue
        with unused(home, name["digest"]) as is_free:
            if not is_free:
                continue
            try:
                size += _remove_image(_read_record(file, name["digest"]), name["engine"])
            except BuildError as error:
                left[name["engine"], error.unspelled.message] += 1
            else:
                file.unlink()
                count += 1
    reasons = [f"{plural(each, 'image')} built with {engine}: {why}" for (engine, why), each in left.items()]
    return PrunedLayers(count, size, tuple(reasons))


def _remove_image(layer: Layer | None, engine: str) -> int:
    """Remove the image of a layer, if it is there; the bytes it held."""
    if layer is None or find_image(layer.image.digest, engine) is None:
        return 0
    run_engine(["rmi", "--no-prune", layer.image.digest], name=engine)
    return layer.added_bytes


def _records(home: Home) -> Path:
    return home.environments / "images"


def _record_file(home: Home, digest: str, engine: str) -> Path:
    return _records(home) / f"{digest}.{engine}.json"


def _read_record(file: Path, digest: str) -> Layer | None:
    """The layer as it was written down."""
    try:
        record = parse_json(file.read_bytes())
        if record["format"] != _FORMAT:
            return None
        resolved = record.get("resolved")  # not there where an older conjure built it
        return Layer(
            *(digest, Image(record["image"]), record["packages"], record["added_bytes"]),
            resolved=None if resolved is None else tuple(resolved),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
