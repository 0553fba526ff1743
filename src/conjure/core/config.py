"""What people set once: two files of settings, and variables above them.

Main entries: `load_config`, `Config`, `SETTINGS`, `configured_project`, `repository_name`, `write_setting`;
`heartbeat_interval_s`, `read_executors`. Invariant: a value is checked where it is read, and knows where it
came from:

    default < config.toml in the home < conjure.toml of the project < variable < option of a command

Executors are defined in the user's own file alone: where runs go, and with which token, no project can say.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conjure.core.files import expand_user, parse_toml, write_atomically
from conjure.core.home import Home
from conjure.core.text import did_you_mean, error_text
from conjure.core.units import parse_duration, parse_size
from conjure.errors import UsageError, option

PROJECT_FILE = "conjure.toml"
HEARTBEAT_EVERY_S = 5.0
DEFAULT = "default"
SANDBOX = "sandbox"
_PROJECT = "project"
_PIP = "run.pip"
_HEARTBEAT = "team.heartbeat"
_GIT = ".git"
PYTHON_VERSION = re.compile(r"3\.\d+(\.\d+)?")
NOT_WITH_IMAGE = ("base", "python", "gpus")  # options that no run with an image can have
_HEADING = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]\s*(#.*)?")


_EXECUTORS = "executors"
_EXECUTOR_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_EXECUTOR_KEYS = {
    "ray": ("kind", "address", "token_file"),
    "slurm": ("kind", "partition", "options", "setup"),
}
_RESERVED = ("local",)


class _NotAllowedError(ValueError):
    """A value that a setting cannot have: its text says what is allowed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that can be set.

    Attributes:
        key: Its name, such as ``run.cpus``; what precedes the dot is a table of the file.
        purpose: What it does, in a few words.
        check: Gives the value back as it is to be used; raises ValueError with what is allowed.
        default: Its value where none is set.
        variable: A variable that is set instead, or None.
        is_users: Whether only the user's own file can set it, and no project.
    """

    key: str
    purpose: str
    check: Callable[[object], Any]
    default: Any = None
    variable: str | None = None
    is_users: bool = False


def _one_of(*allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in allowed:
            raise _NotAllowedError(", ".join(allowed))
        return str(value)

    return check


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not _is_utf8(value):
        raise _NotAllowedError("a string of UTF-8 text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(
        isinstance(one, str) and one and _is_utf8(one) for one in values
    ):
        raise _NotAllowedError("a list of strings of UTF-8 text")
    return tuple(values)


def _is_utf8(text: str) -> bool:
    """Whether a file of settings can hold it: a word of a command line may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _NotAllowedError("a number above 0")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise _NotAllowedError("a number above 0")
    return number


def _count(value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or not int(str(value)):
        raise _NotAllowedError("an integer above 0")
    return int(str(value))


def _python_version(value: object) -> str:
    if not isinstance(value, str) or not PYTHON_VERSION.fullmatch(value):
        raise _NotAllowedError("a version such as 3.12, as a string")
    return value


def _parsed(parse: Callable[[str], object], allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        try:
            parse(value if isinstance(value, str) else "")
        except UsageError as error:
            raise _NotAllowedError(allowed) from error
        return str(value)

    return check


def _yes_or_no(value: object) -> bool:
    words = {"true": True, "false": False}
    found = words.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise _NotAllowedError("true, false")
    return found


SETTINGS: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting("model", "Model of generate, finetune, score, serve and data preview.", _text, "sprite"),
        Setting(
            "precision",
            "Number format for `--precision auto`.",
            _one_of("auto", "float32", "bfloat16"),
            "auto",
            "CONJURE_PRECISION",
        ),
        Setting(
            "native",
            "Instruction set of the native engine.",
            _one_of("auto", "off", "portable", "avx2", "avx512vnni", "amx"),
            "auto",
            "CONJURE_NATIVE",
        ),
        Setting(SANDBOX, "Run commands in a sandbox; a project can only turn this on.", _yes_or_no, False),
        Setting(
            _PROJECT, "Project that runs belong to; the name of the repository's folder if not set.", _text
        ),
        Setting(
            "team.cache",
            "Maximum disk space for files fetched from a team's object store.",
            _parsed(parse_size, "a size such as 50GB"),
            "50GB",
        ),
        Setting(
            _HEARTBEAT,
            "Seconds between heartbeats of a team's runs; the same for all members.",
            _number,
            HEARTBEAT_EVERY_S,
            is_users=True,
        ),
        Setting("run.base", "Environment that runs start from.", _one_of("current", "none"), "current"),
        Setting("run.python", "Python version of a clean environment.", _python_version),
        Setting(_PIP, "Packages to add to the environment of runs.", _texts, ()),
        Setting("run.cpus", "Cores that a run requests.", _number),
        Setting("run.gpus", "GPUs that a run requests.", _count),
        Setting("run.memory", "Memory that a run requests.", _parsed(parse_size, "a size such as 8GB")),
        Setting(
            "run.timeout", "Time after which a run is stopped.", _parsed(parse_duration, "a time such as 90m")
        ),
        Setting("run.output", "Globs of new files to save.", _texts, ()),
        Setting("run.no-output", "Globs of new files not to save.", _texts, ()),
    )
}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force, and where each came from.

    Attributes:
        values: Each setting's value, by its key.
        origins: Each setting's origin: ``default``, a file, or a variable.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)

    def is_set(self, key: str) -> bool:
        """Whether somebody set it: it is not the default."""
        return self.origins[key] != DEFAULT

    def run_options(self) -> dict[str, Any]:
        """What was set of the options of a run, by their names in Python."""
        return {
            key.removeprefix("run.").replace("-", "_"): value
            for key, value in self.values.items()
            if (key.startswith("run.") or key == SANDBOX) and self.is_set(key)
        }

    def refuse_packages_of_project(self, *, is_sandbox_typed: bool) -> None:
        """Have nobody's sandboxed run install what only a project asks for: that is done outside the sandbox.

        A project that turned the sandbox on itself may have packages: it could have left it off.

        Args:
            is_sandbox_typed: Whether the sandbox was asked for by an option, whatever the settings say.

        Raises:
            UsageError: The project's file adds packages, and the user asked for the sandbox.
        """
        origin = self.origins[_PIP]
        is_projects = bool(self.values[_PIP]) and Path(origin).name == PROJECT_FILE
        if is_projects and (is_sandbox_typed or self.origins[SANDBOX] != origin):
            raise UsageError(
                f"{origin} adds packages, which are built and installed outside the sandbox",
                hint=f"if you trust them, request them yourself: {option('pip', *self.values[_PIP])}",
            )


def load_config(home: Home, folder: Path) -> Config:
    """The settings in force for who stands in a folder.

    Args:
        home: Where conjure keeps things, the user's settings too.
        folder: Of the project, or below it.

    Raises:
        UsageError: A file is not TOML, or it or a variable sets what is not allowed.
    """
    values = {key: setting.default for key, setting in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, DEFAULT)
    project = find_project_file(folder)
    for path in (home.config_file, *([] if project is None else [project])):
        found = _read_settings(path, home)
        if path == project and values[SANDBOX]:
            found.pop(SANDBOX, None)  # a project can turn it on, but not off
        values |= found
        origins |= dict.fromkeys(found, str(path))
    for key, setting in SETTINGS.items():
        text = os.environ.get(setting.variable or "", "")
        if setting.variable is not None and text:
            values[key] = _checked(setting, text, f"the variable {setting.variable}")
            origins[key] = setting.variable
    return Config(values, origins)


def find_project_file(folder: Path) -> Path | None:
    """The nearest ``conjure.toml``: in the folder, or above it up to the top of its repository."""
    above = [folder, *folder.parents]
    top = next((each for each in above if (each / _GIT).exists()), folder)
    within = above[: above.index(top) + 1]
    return next((each / PROJECT_FILE for each in within if (each / PROJECT_FILE).is_file()), None)


def heartbeat_interval_s(home: Home) -> float:
    """Seconds between the heartbeats of the supervisors of a team's runs.

    Raises:
        UsageError: The user's file of settings cannot be used.
    """
    return float(_read_settings(home.config_file, home).get(_HEARTBEAT, HEARTBEAT_EVERY_S))


def configured_project(home: Home, folder: Path) -> str | None:
    """What the settings say that runs from a folder belong to, or None.

    Raises:
        UsageError: A file of settings cannot be used.
    """
    return load_config(home, folder).values[_PROJECT]


def repository_name(folder: Path) -> str | None:
    """The name of the folder of the repository that a folder is in, or None outside of one."""
    root = next((each for each in (folder, *folder.parents) if (each / _GIT).exists()), None)
    return None if root is None else _main_worktree(root).name or None


def _main_worktree(root: Path) -> Path:
    """The folder that a linked worktree of git's belongs to; of every other root, the root itself."""
    link = root / _GIT
    if not link.is_file():
        return root
    with contextlib.suppress(OSError, UnicodeDecodeError):
        git_folder = root / link.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
        if git_folder.parent.name == "worktrees" and git_folder.parent.parent.name == _GIT:
            return git_folder.parent.parent.parent
    return root


def _read_settings(path: Path, home: Home) -> dict[str, Any]:
    """What a file sets, by key; nothing where there is no file.

    Args:
        path: The file.
        home: Where the user's own one is.

    Raises:
        UsageError: It cannot be read, is not TOML, or sets what there is not.
    """
    tables = _tables_in(_content(path), path)
    if path.name == PROJECT_FILE:
        _refuse_executors(tables, path, home)
    tables.pop(_EXECUTORS, None)
    found = _flat(tables)
    if path.name == PROJECT_FILE:
        for key in found:
            _refuse_in_project(find_setting(key, str(path)), path)
    return {key: _checked(find_setting(key, str(path)), value, str(path)) for key, value in found.items()}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error_text(error)}") from error


def _tables_in(content: bytes, path: Path) -> dict[str, Any]:
    if not content:
        return {}
    try:
        return parse_toml(content.decode())
    except ValueError as error:
        raise UsageError(f"{path} is not a TOML file: {error}") from error


def _refuse_executors(tables: Mapping[str, Any], path: Path, home: Home) -> None:
    if _EXECUTORS in tables:
        raise UsageError(
            f"{path} defines executors, which a project cannot do",
            hint=f"define them in {home.config_file}",
        )


def _refuse_in_project(setting: Setting, path: Path) -> None:
    if setting.is_users:
        raise UsageError(
            f"{path} sets {setting.key}, which a project cannot do",
            hint=f"set it for yourself with `conjure config set {setting.key} VALUE`",
        )


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tables.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def find_setting(key: str, where: str = "") -> Setting:
    """The setting of that key.

    Raises:
        UsageError: There is none; the message starts with `where` it was named.
    """
    if key not in SETTINGS:
        near = did_you_mean(key, SETTINGS) or f"allowed: {', '.join(SETTINGS)}"
        raise UsageError(f"{f'{where}: ' if where else ''}there is no setting {key!r}; {near}")
    return SETTINGS[key]


def _checked(setting: Setting, value: object, where: str) -> Any:
    try:
        return setting.check(value)
    except _NotAllowedError as error:
        raise UsageError(f"{where}: {setting.key} cannot be {value!r}; allowed: {error}") from error


# ---- executors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """A place, beside this machine, where runs can be carried out.

    Attributes:
        name: What it is called with ``--on``.
        kind: ``ray`` or ``slurm``.
        address: For Ray, of its REST interface, without a slash at the end.
        token_file: For Ray, of a file with the token that it wants to see, or None.
        partition: For Slurm, where jobs go, or None for the default one.
        options: For Slurm, of sbatch, beside those that conjure sets.
        setup: For Slurm, lines for the shell that come before conjure in a job.
    """

    name: str
    kind: str
    address: str = ""
    token_file: Path | None = None
    partition: str | None = None
    options: tuple[str, ...] = ()
    setup: str = ""

    def token(self) -> str | None:
        """The token, read each time, for it may be renewed.

        Raises:
            UsageError: The file cannot be read.
        """
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the token_file of executor {self.name} cannot be read: {error_text(error)}"
            ) from error


def read_executors(home: Home) -> dict[str, ExecutorSettings]:
    """The executors that the user has defined, by name.

    Raises:
        UsageError: The file cannot be read, or one of them is not defined as it should be.
    """
    path = home.config_file
    try:
        tables = parse_toml(path.read_text(encoding="utf-8")).get(_EXECUTORS, {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error_text(error)}") from error
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: executors must be tables, such as [executors.NAME]")
    return {name: _executor(name, table, f"{path}: executors.{name}") for name, table in tables.items()}


def _executor(name: str, table: object, where: str) -> ExecutorSettings:
    if not _EXECUTOR_NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(f"{where}: {name!r} cannot be a name: use a-z, 0-9 and -, and not {_RESERVED[0]}")
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table")
    kind = table.get("kind")
    if kind not in _EXECUTOR_KEYS:
        raise UsageError(f"{where}: kind cannot be {kind!r}; allowed: {', '.join(_EXECUTOR_KEYS)}")
    allowed = _EXECUTOR_KEYS[kind]
    unknown = sorted(table.keys() - set(allowed))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return _slurm(name, table, where) if kind == "slurm" else _ray(name, table, where)


def _ray(name: str, table: dict[str, Any], where: str) -> ExecutorSettings:
    address = str(table.get("address", ""))
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.password or parts.username:
        raise UsageError(f"{where}: address must be one such as http://head:8265, without a password")
    file = table.get("token_file")
    return ExecutorSettings(
        name, "ray", address.rstrip("/"), None if file is None else expand_user(str(file))
    )


def _slurm(name: str, table: dict[str, Any], where: str) -> ExecutorSettings:
    partition, options, setup = (table.get(key) for key in ("partition", "options", "setup"))
    if not (partition is None or isinstance(partition, str)) or not (setup is None or isinstance(setup, str)):
        raise UsageError(f"{where}: partition and setup must be strings")
    given = [] if options is None else options
    if not isinstance(given, list) or not all(isinstance(each, str) and each[:1] == "-" for each in given):
        raise UsageError(f"{where}: options must be a list of sbatch's options, strings that begin with -")
    return ExecutorSettings(name, "slurm", partition=partition, options=tuple(given), setup=setup or "")


# ---- writing -----------------------------------------------------------------------------------------------


def write_setting(path: Path, key: str, values: tuple[str, ...] | None) -> None:
    """Set a value in a file, or take it out, and leave all else in it as it is, comments too.

    What the file sets already is not checked, so that a wrong value can be replaced and an unknown setting
    be taken out, however many there are.

    Args:
        path: The file; it is made if need be.
        key: The setting.
        values: What to set, as texts; several only where a list is allowed. None takes the setting out.

    Raises:
        UsageError: There is no such setting, the value is not allowed, or the file is too unusual to change.
    """
    content = _content(path)
    wanted, line = _flat(_tables_in(content, path)), None
    is_set = wanted.pop(key, None) is not None
    if values is not None:
        setting = find_setting(key)
        if path.name == PROJECT_FILE:
            _refuse_in_project(setting, path)
        wanted[key] = _stored(setting, values)
        line = json.dumps(wanted[key], ensure_ascii=False)
    elif not is_set or key.startswith(f"{_EXECUTORS}."):
        find_setting(key)
    changed = _with_line(content.decode().splitlines(), key, line)
    new = "\n".join(changed) + "\n" if changed else ""
    if not _says(new, wanted, path):
        raise UsageError(f"{path} is written in a way that cannot be changed here", hint="edit it by hand")
    write_atomically(path, new)


def _stored(setting: Setting, values: tuple[str, ...]) -> Any:
    """The value as the file holds it.

    Raises:
        UsageError: It is not allowed.
    """
    is_list = isinstance(setting.default, tuple)
    if not is_list and len(values) != 1:
        raise UsageError(f"{setting.key} takes one value; {len(values)} were given")
    checked = _checked(setting, list(values) if is_list else values[0], "the value")
    return list(checked) if is_list else checked


def _says(text: str, wanted: dict[str, Any], path: Path) -> bool:
    try:
        return _flat(_tables_in(text.encode(), path)) == wanted
    except UsageError:
        return False


def _with_line(lines: list[str], key: str, value: str | None) -> list[str]:
    """Lines of a TOML file with one value set or taken out; whether that was right, the caller checks."""
    table, _, name = key.rpartition(".")
    start, end = _extent(lines, table)
    pattern = re.compile(rf"\s*{re.escape(name)}\s*=")
    own = next((index for index in range(start, end) if pattern.match(lines[index])), None)
    if own is not None:
        comment = re.search(r"\s+#[^\"']*$", lines[own])
        kept = [f"{name} = {value}{comment[0] if comment else ''}"] if value is not None else []
        return [*lines[:own], *kept, *lines[own + 1 :]]
    if value is None:
        return lines
    if table and not _has_heading(lines, table):
        return [*lines, *([""] if lines else []), f"[{table}]", f"{name} = {value}"]
    while end > start and not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], f"{name} = {value}", *lines[end:]]


def _has_heading(lines: list[str], table: str) -> bool:
    return any((match := _HEADING.fullmatch(line)) and match["name"].strip() == table for line in lines)


def _extent(lines: list[str], table: str) -> tuple[int, int]:
    """The lines of a table, from after its heading up to the next; of no table, those before the first."""
    headings = [
        (index, match["name"].strip())
        for index, line in enumerate(lines)
        if (match := _HEADING.fullmatch(line)) is not None
    ]
    start = 0 if not table else next((index + 1 for index, name in headings if name == table), len(lines))
    return start, next((index for index, _ in headings if index >= start), len(lines))
