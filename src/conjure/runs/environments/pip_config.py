"""pip's own settings, told to uv and to the pip of an image: people have mirrors and certificates configured.

Main entries: `uv_settings`, `pip_variables`. Invariant: what the user set for uv itself wins; what pip's
settings hold that is secret goes to uv and pip in variables and nowhere else.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(r"(?P<section>:env:|[\w-]+)\.(?P<option>[\w-]+)=(?P<value>.*)")
_SECTIONS = ("global", "install", ":env:")  # each overrides those before it, as in pip
_TRUE = {"1", "y", "yes", "t", "true", "on"}

# What is always so: no interpreter is downloaded; and as with pip, the best version wins wherever it lies,
# and the system's certificates are trusted.
_FIXED = {"UV_PYTHON_DOWNLOADS": "never", "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "1"}

# What says where packages come from; the rest is about the environment that pip is in.
_SOURCE_OPTIONS = (
    *("index-url", "extra-index-url", "no-index", "find-links", "constraint", "pre"),
    *("prefer-binary", "only-binary", "no-binary"),
    *("trusted-host", "cert", "client-cert", "proxy", "default-timeout", "timeout", "retries"),
)


class UvSettings(NamedTuple):
    """What makes uv behave as pip is configured to.

    Attributes:
        variables: Environment variables, over the caller's.
        install_options: Options of ``uv pip install`` that have no variable.
    """

    variables: Mapping[str, str]
    install_options: tuple[str, ...] = ()


def uv_settings(python: Path, variables: Mapping[str, str]) -> UvSettings:
    """Uv's settings that say what pip's say.

    Args:
        python: The interpreter whose pip is asked, so that an environment's own pip.conf counts.
        variables: The caller's environment.
    """
    options = _read_options(python, variables)
    own = {name: value for name, value in variables.items() if name.startswith("UV_")}
    is_closed = options.get("no-index", "").lower() in _TRUE
    return UvSettings({**_FIXED, **dict(_translate(options)), **own}, ("--no-index",) * is_closed)


def pip_variables(python: Path, variables: Mapping[str, str], place: Callable[[str], str]) -> dict[str, str]:
    """Variables that tell another pip where packages come from, as pip is configured here.

    Args:
        python: The interpreter whose pip is asked.
        variables: The caller's environment.
        place: Gives what the other pip is to read in place of a path or address.
    """
    options = _read_options(python, variables)
    found = {name: [place(word) for word in options.get(name, "").split()] for name in _SOURCE_OPTIONS}
    return {_pip_variable(name): " ".join(words) for name, words in found.items() if words}


def _pip_variable(name: str) -> str:
    return f"PIP_{name.upper().replace('-', '_')}"


def _read_options(python: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Pip's options by name; only those from variables where no pip is installed to ask."""
    for command in _pips(python, variables):
        done = subprocess.run(
            [*command, "config", "list"],
            env={**variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            return parse_config_list(done.stdout)
    prefix = "PIP_"
    return {
        name.removeprefix(prefix).lower().replace("_", "-"): value
        for name, value in variables.items()
        if name.startswith(prefix) and value
    }


def _pips(python: Path, variables: Mapping[str, str]) -> Iterator[list[str]]:
    yield [str(python), "-m", "pip"]
    on_path = shutil.which("pip", path=variables.get("PATH", os.defpath))
    if on_path:
        yield [on_path]
    yield [sys.executable, "-m", "pip"]


def parse_config_list(text: str) -> dict[str, str]:
    """Pip's options from what ``pip config list`` prints, the value that counts for each."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match and match["section"] in found:
            found[match["section"]][match["option"]] = _unquote(match["value"])
    return {option: value for section in _SECTIONS for option, value in found[section].items()}


def _unquote(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


def _translate(options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    lists = (
        ("find-links", "UV_FIND_LINKS", ","),
        ("extra-index-url", "UV_INDEX", " "),
        ("trusted-host", "UV_INSECURE_HOST", " "),
        ("constraint", "UV_CONSTRAINT", " "),
    )
    for option, variable, separator in lists:
        if values := options.get(option, "").split():
            yield variable, separator.join(values)
    plain = (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("cert", "SSL_CERT_FILE"),
        ("client-cert", "SSL_CLIENT_CERT"),
        ("proxy", "ALL_PROXY"),
        ("default-timeout", "UV_HTTP_TIMEOUT"),
        ("timeout", "UV_HTTP_TIMEOUT"),
        ("retries", "UV_HTTP_RETRIES"),
    )
    for option, variable in plain:
        if value := options.get(option, "").strip():
            yield variable, value.split(".")[0] if "timeout" in option else value
    if options.get("pre", "").lower() in _TRUE:
        yield "UV_PRERELEASE", "allow"
