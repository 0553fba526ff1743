"""pip's own settings, told to uv and to the pip of an image: people have mirrors and certificates configured.

Main entries: `uv_settings`, `pip_variables`, `settings_digest`. Invariant: what the user set for uv itself
wins; what pip's settings hold that is secret goes to uv and pip in variables and nowhere else.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from conjure.core.files import sha256_bytes
from conjure.core.home import Home
from conjure.runs.environments.interpreter import keep_answer, read_answer, without_relative_folders

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

# What decides which version, and which file of it, is chosen for a package.
_DECISIVE_OPTIONS = (
    *("index-url", "extra-index-url", "no-index", "find-links", "pre"),
    *("prefer-binary", "only-binary", "no-binary"),
)
_DECISIVE_VARIABLES = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX", "UV_FIND_LINKS"),
    *("UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER", "UV_TORCH_BACKEND"),
    *("UV_NO_BINARY", "UV_NO_BINARY_PACKAGE", "UV_NO_BUILD", "UV_NO_BUILD_PACKAGE"),
)
_FILES_OF_VERSIONS = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT")
# Options of uv by that of pip, and what a user of uv would say the same with.
_FORMATS = {
    "only-binary": ("UV_NO_BUILD", "UV_NO_BUILD_PACKAGE"),
    "no-binary": ("UV_NO_BINARY", "UV_NO_BINARY_PACKAGE"),
}
_PLACES_OF_SETTINGS = ("HOME", "PATH", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


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
        variables: The caller's environment; files in it are named in full.
    """
    options = _read_options(python, variables)
    own = {name: value for name, value in variables.items() if name.startswith("UV_")}
    install_options = ["--no-index"] * (options.get("no-index", "").lower() in _TRUE)
    for name, of_uv in _FORMATS.items():
        if not own.keys() & {*of_uv}:
            packages = options.get(name, "").replace(",", " ").split()
            install_options += [word for package in packages for word in (f"--{name}", package)]
    return UvSettings({**_FIXED, **dict(_translate(options)), **own}, tuple(install_options))


def settings_digest(home: Home, python: Path, prefix: Path, variables: Mapping[str, str]) -> str | None:
    """A digest of the settings that decide which packages are chosen; None where nothing is set.

    Credentials are left out: they change, and say nothing of the packages.

    Args:
        home: Where the answer is kept, as long as no file changes that it depends on.
        python: The interpreter whose pip is asked.
        prefix: Its environment's folder.
        variables: The caller's environment.
    """
    own = {name: value for name, value in variables.items() if name.startswith(("PIP_", "UV_"))}
    own |= {name: variables.get(name, "") for name in _PLACES_OF_SETTINGS}
    question = ["pip", str(python), sorted((name, _CREDENTIALS.sub("", own[name])) for name in own)]
    answer = read_answer(home, question)
    if answer is None:
        options = _read_options(python, variables)
        lists = [options.get("constraint", ""), *(variables.get(name, "") for name in _FILES_OF_VERSIONS)]
        files = [word for words in lists for word in words.split()]
        answer = {"digest": _digest_of(options, variables, files)}
        keep_answer(home, question, answer, [str(python), *_config_files(prefix, variables), *files])
    return answer["digest"]


def _digest_of(options: Mapping[str, str], variables: Mapping[str, str], files: Iterable[str]) -> str | None:
    found = {name: options.get(name, "").split() for name in _DECISIVE_OPTIONS}
    found |= {name: variables.get(name, "").split() for name in _DECISIVE_VARIABLES}
    found["versions"] = [_content(file) for file in files]
    decisive = {
        name: [_CREDENTIALS.sub("", word) for word in words] for name, words in found.items() if words
    }
    return sha256_bytes(json.dumps(decisive, sort_keys=True).encode())[:32] if decisive else None


def _content(file: str) -> str:
    """The content of a file of constraints; of one that is an address, or is not there, its name."""
    try:
        return Path(file).read_text(errors="replace")
    except OSError:
        return file


def _config_files(prefix: Path, variables: Mapping[str, str]) -> list[str]:
    """Where pip looks for its settings."""
    user = variables.get("HOME", "/")
    folders = [
        *(f"{folder}/pip" for folder in (variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)),
        *("/etc", f"{user}/.pip", f"{variables.get('XDG_CONFIG_HOME') or f'{user}/.config'}/pip"),
        *("/Library/Application Support/pip", f"{user}/Library/Application Support/pip"),
        *(str(prefix), sys.prefix),
    ]
    return [*(f"{folder}/pip.conf" for folder in folders), variables.get("PIP_CONFIG_FILE", os.devnull)]


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
            env={**without_relative_folders(variables), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            cwd="/",  # with -m, Python imports from its current folder, which may have a pip.py or a queue.py
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
    if on_path and Path(on_path).is_absolute():
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
