"""Run by another Python than ours, as ``python -c``: prints what that Python is and what it can import.

Main entry: the output, one JSON object. Invariant: it runs on every Python from 3.6 on, and changes nothing.
"""
# ruff: noqa: E402

import sys

# The folder we happen to be run in is no part of the environment. No module below may be imported from it: it
# has a run's code, and that run may be kept to a sandbox.
sys.path[:] = filter(None, sys.path)

import json
import site
import sysconfig
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from urllib.parse import unquote, urlparse


def _distributions() -> list:
    try:
        from importlib.metadata import distributions
    except ImportError:  # before 3.8
        return []
    # pip renames what it replaces to ``~umpy-2.1.dist-info``, and leaves that behind if it is interrupted.
    return [each for each in distributions() if not _folder_name(each).startswith("~")]


def _folder_name(distribution: object) -> str:
    """Name of the folder that the metadata is in, where there is one."""
    return getattr(getattr(distribution, "_path", None), "name", "")


def _packages(distributions: list) -> list:
    found = {}
    for distribution in distributions:
        metadata = _metadata(distribution.read_text)
        name = metadata["Name"]
        if name and name not in found:  # the first on sys.path is the one that is imported
            requires = metadata.get_all("Requires-Dist")
            if requires is None and distribution.read_text("requires.txt"):  # as setuptools once wrote it
                requires = distribution.requires
            found[name] = {
                "name": name,
                "version": metadata["Version"],
                "requires": requires or [],
                "extras": metadata.get_all("Provides-Extra") or [],
            }
    return list(found.values())


def _metadata(read_text: Callable) -> Message:
    """The head of a package's metadata; the description below it would take most of the time to parse."""
    texts = map(read_text, ("METADATA", "PKG-INFO", ""))
    return message_from_string(next(filter(None, texts), "").partition("\n\n")[0])


def _editable_folders(distributions: list) -> list:
    """Folders of packages that are installed by reference, however that is done."""
    found = []
    for distribution in distributions:
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
            if origin["dir_info"]["editable"]:
                found.append(unquote(urlparse(origin["url"]).path))
        except (ValueError, KeyError, TypeError):
            pass
    return found


def _site_folders() -> list:
    folders = list(site.getsitepackages()) if hasattr(site, "getsitepackages") else []
    if site.ENABLE_USER_SITE:
        folders.insert(0, site.getusersitepackages())
    return folders


installed = _distributions()
json.dump(
    {
        "executable": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "version": ".".join(map(str, sys.version_info[:3])),
        "scripts": sysconfig.get_path("scripts"),
        "site_folders": _site_folders(),
        "search_path": sys.path,
        "editable_folders": _editable_folders(installed),
        "packages": _packages(installed),
    },
    sys.stdout,
)
