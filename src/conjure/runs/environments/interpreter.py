"""The Python that a command would get, and what is installed for it.

Main entry: `find_current`. Invariant: asking an interpreter costs tenths of a second, so the answer is kept,
and given again only while neither the interpreter nor any folder it imports from has changed.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjure.core.files import parse_json, sha256_bytes, write_atomically
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.core.units import format_duration
from conjure.errors import BuildError, option
from conjure.runs.environments.uv import uv_program

_PROBE = Path(__file__).with_name("probe.py")
# Variables that decide which Python a wrapper starts, or what Python imports.
_DECIDING_VARIABLES = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "PYTHONUSERBASE",
    "HOME",
    "PYENV_VERSION",
)
_TIMEOUT_S = 300.0  # on a network disk or a machine under load, a Python may start slowly
_ANSWER_FORMAT = "4"  # answers that were kept in another form are not found


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package, with what it needs."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python and its environment.

    Attributes:
        found: The program that PATH leads to; perhaps a wrapper.
        executable: The interpreter itself.
        prefix: Its environment's folder.
        base_prefix: The installation it stands on.
        version: Such as ``3.12.1``.
        scripts: Where its environment keeps programs.
        site_folders: Where its environment keeps packages, in order of search.
        packages: What is installed.
        search_path: Files and folders that it imports from, those of packages installed by reference too.
        editable_folders: Only the latter: the folders in which such packages are edited.
    """

    found: Path
    executable: Path
    prefix: Path
    base_prefix: Path
    version: str
    scripts: Path
    site_folders: tuple[Path, ...]
    packages: tuple[Package, ...]
    search_path: tuple[Path, ...] = ()
    editable_folders: tuple[Path, ...] = ()

    @property
    def versions(self) -> dict[str, str]:
        """Every package's version, by its name in alphabetic order."""
        return {
            package.name: package.version
            for package in sorted(self.packages, key=lambda package: package.name.lower())
        }


def find_current(home: Home, variables: Mapping[str, str], folder: Path) -> Interpreter:
    """The interpreter that ``python`` means.

    Args:
        home: Where answers are kept.
        variables: The caller's environment; PATH is searched for ``python``, then ``python3``.
        folder: Where the command will start: wrappers such as pyenv's look there for their settings.

    Raises:
        BuildError: There is no Python on PATH, or it does not start.
    """
    search = variables.get("PATH", os.defpath)
    found = shutil.which("python", path=search) or shutil.which("python3", path=search)
    if found is None:
        raise BuildError(
            "there is no python on PATH", hint=f"activate an environment, or use {option('base', 'none')}"
        )
    return inspect(home, Path(found), variables, folder)


def inspect(home: Home, found: Path, variables: Mapping[str, str], folder: Path) -> Interpreter:
    """What `found` is and has, from memory if nothing has changed since it was last asked.

    Raises:
        BuildError: It does not start.
    """
    wrapper = _wrapper_settings(found, folder)
    if wrapper is None:
        return _interpreter(found, _ask(found, variables, folder))
    question = [
        _ANSWER_FORMAT,
        str(found),
        *(variables.get(name, "") for name in _DECIDING_VARIABLES),
        *wrapper,
    ]
    answer = read_answer(home, question)
    if answer is None:
        answer = _ask(found, variables, folder)
        watched = [str(found), answer["executable"], f"{answer['prefix']}/pyvenv.cfg"]
        # A user's site folder that is not there yet is not on the path either.
        watched += [*answer["search_path"], *answer["site_folders"]]
        keep_answer(home, question, answer, watched)
    return _interpreter(found, answer)


def _answer_file(home: Home, question: Sequence[Any]) -> Path:
    return home.environments / "interpreters" / f"{sha256_bytes(json.dumps(question).encode())[:32]}.json"


def keep_answer(
    home: Home, question: Sequence[Any], answer: Mapping[str, Any], watched: Iterable[str]
) -> None:
    """Write down what an interpreter answered, to count until a watched file or folder changes."""
    path = _answer_file(home, question)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path, json.dumps({"answer": answer, "watched": {name: _stamp(name) for name in watched}})
    )


def read_answer(home: Home, question: Sequence[Any]) -> dict[str, Any] | None:
    """What `keep_answer` wrote down; None if that may have changed."""
    path = _answer_file(home, question)
    try:
        stored = parse_json(path.read_bytes())
        unchanged = all(_stamp(name) == stamp for name, stamp in stored["watched"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored["answer"] if unchanged else None


def _stamp(name: str) -> list[int] | None:
    """What changes when a file is replaced, or a package comes to a folder or goes."""
    try:
        facts = Path(name).stat()
    except OSError:
        return None
    return [facts.st_mtime_ns, facts.st_ino]


def _wrapper_settings(found: Path, folder: Path) -> list[str] | None:
    """What a script in Python's place decides by: nothing for a real Python; None if that cannot be known."""
    try:
        with found.open("rb") as file:
            beginning = file.read(4096)
    except PermissionError:  # it may only be executed, which is enough for a program, but not for a script
        return []
    if not beginning.startswith(b"#!"):
        return []
    if b"pyenv" not in beginning:
        return None
    files = [place / ".python-version" for place in (folder, *folder.parents)] + [
        found.parents[1] / "version"
    ]
    return [f"{path}={_content(path)}" for path in files if path.is_file()]


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _ask(found: Path, variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [str(found), "-c", _PROBE.read_text()],
            env=without_relative_folders(variables),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return parse_json(done.stdout.splitlines()[-1])  # before it, whatever a sitecustomize prints
        words = _telling_line(done.stderr) or [f"exit status {done.returncode}"]
    except subprocess.TimeoutExpired:
        words = [f"it did not answer within {format_duration(_TIMEOUT_S)}"]
    except (OSError, ValueError, IndexError) as error:
        words = [error_text(error)]
    raise BuildError(f"{found} does not work: {words[0]}", hint="`python --version` should print a version")


def _telling_line(stderr: bytes) -> list[str]:
    """The line that says what is wrong: the first, and of a traceback the last."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1:] if lines and lines[0].lstrip().startswith(("Traceback", "File ")) else lines[:1]


def without_relative_folders(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables with which Python imports nothing, not even a ``sitecustomize``, from its current folder."""
    folders = variables.get("PYTHONPATH", "").split(os.pathsep)
    return {**variables, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, folders))}


def _interpreter(found: Path, answer: Mapping[str, Any]) -> Interpreter:
    return Interpreter(
        found=found,
        executable=Path(answer["executable"]),
        prefix=Path(answer["prefix"]),
        base_prefix=Path(answer["base_prefix"]),
        version=answer["version"],
        scripts=Path(answer["scripts"]),
        site_folders=tuple(map(Path, answer["site_folders"])),
        packages=tuple(
            Package(one["name"], one["version"], tuple(one["requires"]), tuple(one["extras"]))
            for one in answer["packages"]
        ),
        search_path=tuple(map(Path, [*answer["search_path"], *answer["editable_folders"]])),
        editable_folders=tuple(map(Path, answer["editable_folders"])),
    )


def find_version(home: Home, version: str, variables: Mapping[str, str], folder: Path) -> Path:
    """An interpreter of this version, ``3.12`` or ``3.12.1``, wherever this machine has one.

    Raises:
        BuildError: It has none; nothing is downloaded.
    """
    candidates = [_on_path(f"python{version}", variables), *_managed_by_pyenv(version, variables)]
    for candidate in (*filter(None, candidates), _known_to_uv(version, variables)):
        if candidate is not None and _starts(candidate, variables):
            return candidate
    try:
        here = f" (python is {find_current(home, variables, folder).version} here)"
    except BuildError:
        here = ""
    raise BuildError(
        f"there is no Python {version} on this machine{here}",
        hint=f"install Python {version}, or omit {option('python')}",
    )


def _on_path(name: str, variables: Mapping[str, str]) -> Path | None:
    found = shutil.which(name, path=variables.get("PATH", os.defpath))
    return Path(found) if found else None


def _managed_by_pyenv(version: str, variables: Mapping[str, str]) -> list[Path]:
    root = variables.get("PYENV_ROOT") or Path(variables.get("HOME", "/"), ".pyenv")
    names = (version, f"{version}.*")
    return [path for name in names for path in sorted(Path(root).glob(f"versions/{name}/bin/python"))]


def _known_to_uv(version: str, variables: Mapping[str, str]) -> Path | None:
    done = subprocess.run(
        [uv_program(), "python", "find", "--no-config", "--no-project", "--quiet", version],
        env={**variables, "UV_PYTHON_DOWNLOADS": "never"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _starts(python: Path, variables: Mapping[str, str]) -> bool:
    command = [str(python), "-c", ""]
    return subprocess.run(command, env=dict(variables), capture_output=True, check=False).returncode == 0
