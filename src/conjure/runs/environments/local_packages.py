"""Packages and paths named relative to where the user stands, in a form that means the same anywhere.

Main entries: `keep_packages`, `absolute_option`, `replace_path`. Invariant: what is kept is a wheel or
archive under its digest, so that a run's record goes on meaning the same bytes.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from uuid import uuid4

from conjure.core.files import expand_user, sha256_file
from conjure.core.home import Home
from conjure.core.trees import clone_file
from conjure.errors import BuildError, NotFoundError, UsageError, option
from conjure.runs.environments.pip_config import uv_settings
from conjure.runs.environments.uv import run_uv
from conjure.runs.schema.spec import EnvironmentChoice

_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")
_EXTRAS = re.compile(r"(?P<path>.*?)(?P<extras>\[[\w\s,.-]*\])?")
# Where conditions, digests and remarks begin that follow what a line of requirements installs.
_REMARK = re.compile(r"\s+(?:;|#|--hash\b|\\$)")
_PATH_OPTION = re.compile(
    r"(?P<option>--find-links|-f|--index-url|-i|--extra-index-url)(?P<between>\s*=\s*|\s+|(?<=-f|-i))(?P<path>\S+)"
)
# Variables that name files and folders, and what stands between several; only one where nothing does.
_PATH_VARIABLES = {
    "PIP_FIND_LINKS": " ",
    "UV_FIND_LINKS": ",",
    **dict.fromkeys(("PIP_CONSTRAINT", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT"), " "),
    **dict.fromkeys(("PIP_CONFIG_FILE", "PIP_CERT", "PIP_CLIENT_CERT"), None),
}


def is_local(requirement: str) -> bool:
    """Whether a requirement is a path or archive of this machine, not a name or address."""
    path = _path_of(requirement)
    return path.startswith(("./", "../", "/", "~")) or path in (".", "..") or path.endswith(_ARCHIVES)


def local_packages(choice: EnvironmentChoice) -> list[str]:
    """Names of the files of this machine among the packages that are to be added."""
    lines = (line.partition(" #")[0].strip() for line in (choice.requirements or "").splitlines())
    packages = [*choice.pip, *(line for line in lines if not line.startswith(("#", "-")))]
    return [Path(_path_of(each)).name for each in packages if is_local(each) and "://" not in each]


def keep_packages(home: Home, requirements: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Requirements in which each path is replaced by that of a copy kept in the home.

    Args:
        requirements: As they were given.
        folder: What relative paths are relative to.

    Raises:
        NotFoundError: There is no such file or folder.
        BuildError: A folder is no package that can be built.
    """
    return tuple(
        _keep(home, requirement.strip(), folder)
        if is_local(requirement) and "://" not in requirement
        else requirement
        for requirement in requirements
    )


def as_lines(packages: Iterable[str]) -> list[str]:
    """Packages as lines of a requirements file, which only we can read: an address may hold a token.

    Raises:
        BuildError: One would be something else there: an option, a remark, several lines.
    """
    lines = [package.strip() for package in packages]
    for line in lines:
        if line.startswith(("-", "#")) or len(line.splitlines()) != 1:
            raise BuildError(f"{option('pip', line)} is not a package")
    return lines


def split_remark(requirement: str) -> tuple[str, str]:
    """What a line of requirements installs, and its conditions, digests and remark after that."""
    text = requirement.strip()
    remark = _REMARK.search(text)
    return (text, "") if remark is None else (text[: remark.start()], text[remark.start() :])


def _path_of(requirement: str) -> str:
    what, _ = split_remark(requirement)
    match = _EXTRAS.fullmatch(what.removeprefix("file:"))
    return what if match is None else match["path"].strip()


def _keep(home: Home, requirement: str, folder: Path) -> str:
    what, remark = split_remark(requirement)
    match = _EXTRAS.fullmatch(what.removeprefix("file:"))
    rest = f"{(match and match['extras']) or ''}{remark}"
    path = folder / expand_user(_path_of(requirement))
    if path.is_dir():
        with tempfile.TemporaryDirectory() as built:
            return f"{_keep_file(home, _build_wheel(path, Path(built)))}{rest}"
    if not path.is_file():
        raise NotFoundError(f"there is no file or folder {path} to install")
    if not path.name.endswith(_ARCHIVES):
        raise UsageError(f"{path} is neither a wheel nor an archive of a package ({' '.join(_ARCHIVES)})")
    return f"{_keep_file(home, path)}{rest}"


def _build_wheel(folder: Path, into: Path) -> Path:
    variables = with_absolute_paths(os.environ, Path.cwd())
    settings = uv_settings(Path(sys.executable), variables)
    run_uv(
        ["build", "--wheel", "--out-dir", str(into), str(folder.resolve())],
        folder=folder,
        variables={**variables, **settings.variables},
        report=lambda _line: None,
    )
    return next(into.glob("*.whl"))


def _keep_file(home: Home, file: Path) -> Path:
    """A copy under the file's digest, with the name that tells installers what it is."""
    kept = home.create().datasets / "packages" / sha256_file(file) / file.name
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{uuid4().hex}.part")
        try:
            clone_file(file.resolve(), partial, mode=0o444)
            partial.replace(kept)
        finally:
            partial.unlink(missing_ok=True)
    return kept


def absolute_option(line: str, folders: Iterable[Path]) -> str:
    """A line of a requirements file whose option names a path, with the path in full.

    Args:
        line: Such as ``--find-links ./wheels``.
        folders: What the path may be relative to; the first in which it is there counts.
    """
    what, remark = split_remark(line)
    match = _PATH_OPTION.fullmatch(what)
    if match is None or "://" in match["path"]:
        return line
    for folder in folders:
        path = folder / expand_user(match["path"])
        if path.exists():
            return f"{match['option']} {path.absolute()}{remark}"
    return line


def replace_path(requirement: str, place: Callable[[str], str]) -> str:
    """A requirement, or a line of a requirements file, with another path in place of the one that it names.

    Args:
        requirement: As `keep_packages`, `absolute_option` or pip's users write it.
        place: Gives the other path; it is asked about addresses too.
    """
    what, remark = split_remark(requirement)
    option = _PATH_OPTION.fullmatch(what)
    if option is not None:
        return f"{option['option']} {place(option['path'])}{remark}"
    if not is_local(requirement):
        return requirement
    path, bracket, extras = what.partition("[")
    return f"{place(path)}{bracket}{extras}{remark}"


def with_absolute_paths(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Variables in which the files and folders that pip and uv read are named in full."""
    changed = dict(variables)
    for name, separator in _PATH_VARIABLES.items():
        value = variables.get(name, "")
        paths = [value] if separator is None else value.split(separator)
        if value.strip():
            changed[name] = (separator or "").join(
                str(folder / path) if "://" not in path and (folder / path).exists() else path
                for path in paths
                if path.strip()
            )
    return changed
