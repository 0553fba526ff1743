"""The Python environment a run gets: the caller's own, a layer on top of it, or a clean one.

A built environment lies in ``environments/<digest>``, where the digest is of everything that was asked for,
so that equal wishes share one. Versions that are asked for beside are not looked at where the environment has
them anyway. A layer is a virtual environment that goes on searching where its base does.
To uv the base's packages are shown as installed in the layer (by their metadata alone), so it takes what
satisfies as it is and fetches only the rest; the metadata is removed before the environment is used.

Main entry: `build`. Invariant: an environment in place is complete, and nobody has changed it since it was
built; one that was changed is built again, beside it where other runs use that one: they keep their files.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from conjure.core.dir_fd import walk
from conjure.core.files import parse_json, sha256_bytes, write_atomically
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.core.trees import remove_tree
from conjure.errors import BuildError, option
from conjure.runs.environments.environment_locks import (
    building,
    is_used_by_others,
    mark_in_use,
    unused,
)
from conjure.runs.environments.imported_code import places_outside
from conjure.runs.environments.interpreter import Interpreter, find_current, find_version, inspect
from conjure.runs.environments.local_packages import as_lines, with_absolute_paths
from conjure.runs.environments.pip_config import UvSettings, settings_digest, uv_settings
from conjure.runs.environments.pip_requirements import canonical_name, has_versions
from conjure.runs.environments.uv import run_uv
from conjure.runs.environments.venv_overlay import search_base, show_base_packages, take_over_scripts
from conjure.runs.schema.spec import EnvironmentChoice

_FORMAT = 1
_DIGEST = re.compile("[0-9a-f]{32}")
_RECORD, _LOCKED_VERSIONS = "environment.json", "requirements.lock"
# Bytecode under the name plain Python gives it; uv compiles it when it installs.
_BYTECODE = re.compile(r"[^.]+\.[a-z]+-?\d+\.pyc")


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment to run a command in.

    Attributes:
        digest: What it was made from, in one word; equal for equal wishes.
        python: Its interpreter.
        bin: Where its programs lie.
        packages: Version of every package that can be imported.
        prefix: Its folder if it was built, None for the caller's own environment.
        resolved: Which of the packages were added in a version that uv chose; None if nobody knows.
        imports: Places outside of it from which a command may import, too.
    """

    digest: str
    python: Path
    bin: Path
    packages: Mapping[str, str]
    prefix: Path | None = None
    resolved: tuple[str, ...] | None = None
    imports: tuple[Path, ...] = ()

    def activate(self, variables: Mapping[str, str]) -> dict[str, str]:
        """`variables` with this environment in front; the caller's own needs no change."""
        if self.prefix is None:
            return dict(variables)
        path = os.pathsep.join(filter(None, (str(self.bin), variables.get("PATH"))))
        kept = {name: value for name, value in variables.items() if name != "PYTHONHOME"}
        return kept | {"PATH": path, "VIRTUAL_ENV": str(self.prefix)}


def build(
    home: Home,
    choice: EnvironmentChoice,
    report: Callable[[str], None] = lambda _: None,
    *,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Environment:
    """The environment that was asked for: built if need be, else the one that is there.

    It counts as in use, and `prune` leaves it, until this process ends.

    Args:
        home: Where environments are kept.
        choice: What was asked for.
        report: Gets a line when something takes time.
        variables: The caller's environment; this process's own if None.
        folder: Where the command will start; the current one if None.

    Raises:
        BuildError: It cannot be built; the message has the resolver's words.
    """
    folder = Path.cwd() if folder is None else folder
    variables = with_absolute_paths(os.environ if variables is None else variables, folder)
    wish = _BuildRequest.of(home, choice, variables, folder)
    environment = (
        _current(wish.interpreter) if wish.is_current else _find_or_build(home, wish, variables, report)
    )
    imports = places_outside(home, wish.interpreter if wish.is_layer else None, variables)
    return replace(environment, imports=imports)


def _find_or_build(
    home: Home, wish: "_BuildRequest", variables: Mapping[str, str], report: Callable[[str], None]
) -> Environment:
    """It counts as in use until this process ends."""
    environment = _find_built(home, wish)
    if environment is not None:
        return environment
    with building(home, wish.digest, report):
        environment = _find_built(home, wish)  # somebody may have built it while we waited
        if environment is None:
            place = home.environments / wish.digest
            if (place / _RECORD).exists():
                report("the environment was changed after it was built; rebuilding it")
                place = _free_place(home, wish)
            _build(home, wish, place, variables, report)
            environment = _reuse(place, wish.digest)
            if environment is None:
                raise BuildError(f"the environment {place} was changed while it was being built")
    return environment


def _find_built(home: Home, wish: "_BuildRequest") -> Environment | None:
    """The environment that was asked for, wherever it was built; it is marked as used."""
    for digest in dict.fromkeys((wish.digest_without_versions, wish.digest)):
        if digest == wish.digest or (home.environments / digest).exists():
            mark_in_use(home, digest)
        for place in sorted(home.environments.glob(f"{digest}*")):
            environment = _reuse(place, digest)
            if environment is not None and has_versions(environment.packages, wish.choice.constraints):
                return environment
    return None


def _free_place(home: Home, wish: "_BuildRequest") -> Path:
    """Where to build it anew: in its own place, or beside it while other runs go on with what is there."""
    place = home.environments / wish.digest
    if not is_used_by_others(home, wish.digest):
        return place
    beside = (place.with_name(f"{place.name}.{number}") for number in count(2))
    return next(path for path in beside if not path.exists())


@dataclass(frozen=True, slots=True)
class _BuildRequest:
    """What is to be built, and on which interpreter."""

    choice: EnvironmentChoice
    interpreter: Interpreter
    digest: str
    digest_without_versions: str

    @property
    def is_layer(self) -> bool:
        return self.choice.base == "current"

    @property
    def is_current(self) -> bool:
        return self.is_layer and not self.choice.adds_python_packages

    @classmethod
    def of(
        cls, home: Home, choice: EnvironmentChoice, variables: Mapping[str, str], folder: Path
    ) -> "_BuildRequest":
        current = find_interpreter(home, choice, variables, folder)
        asked = {
            "format": _FORMAT,
            "base": choice.base,
            "pip": sorted(name.strip() for name in choice.pip),
            "requirements": (choice.requirements or "").strip(),
        }
        if choice.base == "current":
            _refuse_other_version(choice.python, current)
            asked |= {"prefix": str(current.prefix), "version": current.version, "has": current.versions}
        elif choice.python is not None:
            asked |= {"version": choice.python}
        else:
            asked |= {"version": current.version, "installation": str(current.base_prefix)}
        if choice.adds_python_packages:
            decisive = settings_digest(home, current.executable, current.prefix, _clean(variables))
            asked |= {} if decisive is None else {"settings": decisive}
        fixed = {"constraints": sorted(choice.constraints)} if choice.constraints else {}
        return cls(choice, current, _digest(asked | fixed), _digest(asked))


def find_interpreter(
    home: Home, choice: EnvironmentChoice, variables: Mapping[str, str], folder: Path
) -> Interpreter:
    """The interpreter that an environment is, or stands on.

    Where nothing of the caller's own is used, it need not work: there is always the one that runs conjure.

    Raises:
        BuildError: There is none, or it does not start.
    """
    try:
        return find_current(home, variables, folder)
    except BuildError:
        if choice.base != "none":
            raise
    clean = _clean(variables)
    own_version = ".".join(map(str, sys.version_info[:3]))
    if choice.python is None or _is_version(own_version, choice.python):
        return inspect(home, Path(sys.executable), clean, folder)
    return inspect(home, find_version(home, choice.python, clean, folder), clean, folder)


def _digest(asked: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(asked, sort_keys=True).encode())[:32]


def _refuse_other_version(version: str | None, current: Interpreter) -> None:
    if version is not None and not _is_version(current.version, version):
        raise BuildError(
            f"python is {current.version} here, and {option('python', version)} was requested",
            hint=f"{option('base', 'none')} builds a clean environment of that version",
        )


def _is_version(version: str, wanted: str) -> bool:
    return f"{version}.".startswith(f"{wanted}.")


def _current(interpreter: Interpreter) -> Environment:
    has = {"prefix": str(interpreter.prefix), "version": interpreter.version, "has": interpreter.versions}
    return Environment(_digest(has), interpreter.executable, interpreter.found.parent, interpreter.versions)


def _reuse(place: Path, digest: str) -> Environment | None:
    """The environment in place, if it is complete and as it was built."""
    try:
        record = parse_json((place / _RECORD).read_bytes())
        if record["format"] != _FORMAT or record["fingerprint"] != _fingerprint(place):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    python = place / "bin" / "python"
    if not python.exists():  # the interpreter it stands on is gone
        return None
    resolved = record.get("resolved")  # not there where an older conjure built it
    return Environment(
        *(digest, python, place / "bin", record["packages"], place),
        resolved=None if resolved is None else tuple(resolved),
    )


def _fingerprint(place: Path) -> str:
    """Digest of every file's name, size, times and inode: no write goes unseen, and nothing need be read.

    Caches that Python and tools write beside modules when they run are removed: nobody vouches for them.
    """
    lines = []
    for name, entry in walk(place):
        if entry.is_folder or name in (_RECORD, _LOCKED_VERSIONS):
            continue
        if "/__pycache__/" in name and not _BYTECODE.fullmatch(entry.name):
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=entry.folder)
            continue
        facts = entry.stat()
        # The time of the last change of anything (ctime) cannot be set back, unlike that of the content.
        lines.append(f"{name}\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}")
    return sha256_bytes("\n".join(lines).encode(errors="surrogateescape"))


def _build(
    home: Home,
    wish: _BuildRequest,
    place: Path,
    variables: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    clean = _clean(variables)
    settings = uv_settings(wish.interpreter.executable, clean)
    settings = settings._replace(variables={**clean, **settings.variables})
    python = _choose_python(home, wish, clean)
    try:
        with tempfile.TemporaryDirectory(
            dir=home.environments, prefix=f".{wish.digest}.new-", ignore_cleanup_errors=True
        ) as temporary:
            folder = Path(temporary)
            built = folder / "environment"
            make = ["venv", "--no-project", "--relocatable", "--python", str(python), built.name]
            run_uv(make, folder=folder, variables=settings.variables, report=lambda _: None)
            _fill(built, wish, settings, report)
            if wish.is_layer:
                take_over_scripts(wish.interpreter, built / "bin", place / "bin")
            _write_record(built, wish)
            _put_in_place(built, place)
    except OSError as error:
        raise BuildError(
            f"the environment could not be built: {error_text(error, with_path=True)}"
        ) from error


def _clean(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables without those by which uv would fill the caller's environment, or Python start otherwise."""
    unwanted = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH")
    return {name: value for name, value in variables.items() if name not in unwanted}


def _choose_python(home: Home, wish: _BuildRequest, variables: Mapping[str, str]) -> Path:
    version = wish.choice.python
    if version is None or _is_version(wish.interpreter.version, version):
        return wish.interpreter.executable
    return find_version(home, version, variables, Path.cwd())


def _fill(built: Path, wish: _BuildRequest, settings: UvSettings, report: Callable[[str], None]) -> None:
    folder = _site_folder(built)
    stand_ins = show_base_packages(wish.interpreter, folder) if wish.is_layer else []
    if wish.choice.adds_python_packages:
        install = ["pip", "install", "--python", str(built / "bin" / "python")]
        # Hard links to uv's cache would carry a run's edits into every other environment.
        install += ["--link-mode", "copy", "--compile-bytecode", *settings.install_options]
        for name, lines in (
            ("requirements.txt", wish.choice.requirements),
            ("packages.txt", "\n".join(as_lines(wish.choice.pip))),
        ):
            if lines:
                (built.parent / name).write_text(lines)
                install += ["--requirement", name]
        variables = dict(settings.variables)
        if wish.choice.constraints:
            (built.parent / "constraints.txt").write_text("\n".join(wish.choice.constraints))
            variables["UV_CONSTRAINT"] = f"{variables.get('UV_CONSTRAINT', '')} constraints.txt".strip()
        run_uv(install, folder=built.parent, variables=variables, report=report)
    for stand_in in stand_ins:
        remove_tree(stand_in)
    if wish.is_layer:
        search_base(wish.interpreter, folder)


def _site_folder(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


def _write_record(built: Path, wish: _BuildRequest) -> None:
    added = installed_versions(_site_folder(built))
    base = wish.interpreter.versions if wish.is_layer else {}
    replaced = set(map(canonical_name, added))
    packages = {
        name: version for name, version in base.items() if canonical_name(name) not in replaced
    } | added
    lock = "".join(f"{name}=={version}\n" for name, version in sorted(added.items()))
    (built / _LOCKED_VERSIONS).write_text(lock)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "resolved": _resolved(_site_folder(built)),
        "fingerprint": _fingerprint(built),
    }
    write_atomically(built / _RECORD, json.dumps(record, indent=1))


def installed_versions(site_folder: Path) -> dict[str, str]:
    """Versions of the packages in one folder, by name."""
    from importlib import metadata  # tens of milliseconds that only who builds an environment need pay

    found = metadata.distributions(path=[str(site_folder)])
    return {distribution.metadata["Name"]: distribution.version for distribution in found}


def _resolved(site_folder: Path) -> list[str]:
    """Names of the packages in one folder whose version uv chose: no file and no address was given."""
    from importlib import metadata  # as above

    found = metadata.distributions(path=[str(site_folder)])
    return sorted(each.metadata["Name"] for each in found if each.read_text("direct_url.json") is None)


def _put_in_place(built: Path, place: Path) -> None:
    if place.exists():  # changed by a run, or cut off by a crash of an older conjure
        place.rename(built.parent / "replaced")
    built.rename(place)


def prune(home: Home, needed: set[str]) -> list[Path]:
    """Remove built environments but those `needed` or in use, and what builds left when they were cut off.

    Returns:
        The environments that were removed.
    """
    removed = []
    for path in sorted(home.environments.iterdir()) if home.environments.is_dir() else ():
        digest = path.name.removeprefix(".").partition(".")[0]
        is_environment = path.name == digest
        if not _DIGEST.fullmatch(digest) or (is_environment and digest in needed):
            continue
        with unused(home, digest) as is_free:
            if is_free:
                remove_tree(path)
                removed += [path] if is_environment else []
    return removed
