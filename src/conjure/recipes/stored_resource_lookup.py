"""Resources as the records of runs know them: what `resource_lookup` imports once a name may be one.

Main entries: `is_link`, `known_links`, `resolve_resource`.
"""

from pathlib import Path

from conjure.core.home import Home
from conjure.runs.artifacts.resource_paths import resolve
from conjure.runs.lifecycle.open_store import open_store


def is_link(home: Home, name: str) -> bool:
    """Whether a link has this name."""
    with open_store(home) as store:
        return store.lookup_link(name) is not None


def known_links(home: Home) -> list[tuple[str, str]]:
    """As `resource_lookup.known_links`."""
    with open_store(home) as store:
        return [(link.name, link.resource) for link in store.links()]


def resolve_resource(home: Home, name: str) -> Path:
    """Where a resource lies; errors as for `resource_lookup.resolve_resource`."""
    with open_store(home) as store:
        return resolve(home, name, store.lookup_link)
