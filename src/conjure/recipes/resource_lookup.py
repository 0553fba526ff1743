"""Resources where the language-model half takes a path or a model's name.

Main entries: `model_lookup`, `data_path`, `with_data_paths`. Invariant: a name is a resource only if it is
written as one (``runs/…``, ``uploads/…``, ``last``) or is a link's name; everything else is left to whoever
asked.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.errors import NotFoundError
from conjure.lm.checkpoints.gguf.detection import is_gguf
from conjure.recipes.options import NAMING_DATA
from conjure.runs.schema.resource import LAST, RUNS, UPLOADS

CHECKPOINT_OUTPUT = "output"  # where a fine-tune's run keeps its checkpoint
_CONFIG_FILE = "config.json"


def is_resource(home: Home, name: str) -> bool:
    """Whether `name` is written as a resource, or begins with a link's name or with ``last``."""
    first = name.split("/", 1)[0]
    if first in (RUNS, UPLOADS):
        return True
    if not first or first in (".", "..", "~", "-") or not home.database.exists():
        return False
    if LAST.fullmatch(first):
        return True
    return not _has_no_links(home) and _recorded().is_link(home, first)


def known_links(home: Home) -> list[tuple[str, str]]:
    """All links: their names, and the resources that they stand for.

    Raises:
        StoreError: The records cannot be read.
    """
    return _recorded().known_links(home)


def resolve_resource(home: Home, name: str) -> Path:
    """Where a resource lies.

    Raises:
        NotFoundError: There is no such thing.
        UsageError: It cannot be a resource, or leads out of its run or upload.
    """
    return _recorded().resolve_resource(home, name)


def _has_no_links(home: Home) -> bool:
    """Whether a home on this machine certainly has none; a name needs no further look then.

    Most homes have none, and what a whole store imports takes longer than a small model's first token.
    """
    if home.team_file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{home.database.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT 1 FROM links LIMIT 1").fetchone() is None
    except sqlite3.Error:
        return False  # it says what is wrong when it is opened as usual


def _recorded() -> ModuleType:
    # The records of runs and all that they need, which the names of most models and files do without.
    from conjure.recipes import stored_resource_lookup

    return stored_resource_lookup


def checkpoint_resource(home: Home, name: str) -> str:
    """The resource of the checkpoint that a model's name means: of a run, its ``output`` folder.

    A GGUF file is a model, too.

    Raises:
        NotFoundError: There is no such thing, or no checkpoint in it.
    """
    folder = resolve_resource(home, name)
    if (folder / _CONFIG_FILE).is_file() or (folder.is_file() and is_gguf(folder)):
        return name
    if (folder / CHECKPOINT_OUTPUT / _CONFIG_FILE).is_file():
        return f"{name.rstrip('/')}/{CHECKPOINT_OUTPUT}"
    raise NotFoundError(
        f"{name} contains no model (no {_CONFIG_FILE})", fix=shell_words("conjure", "ls", name)
    )


def model_lookup(name: str) -> Path | None:
    """The checkpoint folder, or GGUF file, of a model that is a resource; None for any other name.

    Raises:
        NotFoundError: It is a resource, and not there, or holds no model.
    """
    home = Home.from_environment()
    if not is_resource(home, name):
        return None
    return resolve_resource(home, checkpoint_resource(home, name))


def data_path(name: str, home: Home | None = None) -> str:
    """The path of data that may be a resource; anything else as it is.

    Args:
        name: A file, a folder or a resource.
        home: Where conjure keeps things; the environment's if None.

    Raises:
        NotFoundError: It is a resource, and not there.
    """
    home = Home.from_environment() if home is None else home
    return str(resolve_resource(home, name)) if is_resource(home, name) else name


def with_data_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those that name data as paths.

    Raises:
        NotFoundError: One is a resource, and not there.
    """
    named = {name: data_path(str(options[name])) for name in NAMING_DATA if options.get(name) is not None}
    return {**options, **named}
