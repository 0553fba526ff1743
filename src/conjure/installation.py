"""Where conjure was installed from, so that its optional packages can be installed from the same place.

Main entries: `install_command`, `pip_install`. Invariant: what was not installed from a package index is
never looked for there, where another package could have the name.
"""

import json
import sys
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

from conjure.core.quoting import shell_words


def install_command(extra: str) -> str:
    """The command that installs an extra of conjure, such as ``lm``."""
    from importlib.metadata import distribution  # milliseconds that only an error needs to pay

    source = json.loads(distribution("conjure").read_text("direct_url.json") or "{}")
    return pip_install(*_requirement(extra, source))


def pip_install(*words: str) -> str:
    """The command that installs packages into the environment that conjure is in, whichever is activated.

    Args:
        words: Requirements and options that pip and uv share.
    """
    if find_spec("pip") is None:  # as in an environment that uv made
        return shell_words("uv", "pip", "install", "--python", sys.executable, *words)
    return shell_words(sys.executable, "-m", "pip", "install", *words)


def _requirement(extra: str, source: dict[str, Any]) -> list[str]:
    """What pip is to install; `source` is what it recorded when conjure was installed (PEP 610)."""
    if "dir_info" in source:
        folder = unquote(urlsplit(source["url"]).path)
        return ["-e"] * bool(source["dir_info"].get("editable")) + [f"{folder}[{extra}]"]
    if "vcs_info" in source:
        origin = source["vcs_info"]
        return [f"conjure[{extra}] @ {origin['vcs']}+{source['url']}@{origin['commit_id']}"]
    return [f"conjure[{extra}]" + (f" @ {source['url']}" if "url" in source else "")]
