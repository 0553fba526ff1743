"""A virtual environment that stands on another: what it adds comes first, everything else is the base's.

Main entries: `show_base_packages`, `search_base`, `take_over_scripts`. Invariant: the base is only read.
"""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from conjure.runs.environments.interpreter import Interpreter

_BASE_PATHS = "_conjure_base.pth"
# What uv can compare; a stand-in with another version would stop it.
_VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*([-_.]?[a-z]+[-_.]?\d*)*(\+[a-z0-9]+([-_.][a-z0-9]+)*)?", re.IGNORECASE
)


def show_base_packages(base: Interpreter, folder: Path) -> list[Path]:
    """Metadata for each of the base's packages, enough for a resolver; the folders made."""
    made = []
    for package in base.packages:
        if not _VERSION.fullmatch(package.version):
            continue
        stand_in = folder / f"{re.sub('[-_.]+', '_', package.name)}-{package.version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {package.name}", f"Version: {package.version}"]
        lines += [f"Provides-Extra: {extra}" for extra in package.extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in package.requires]
        stand_in.mkdir()
        (stand_in / "METADATA").write_text("\n".join(lines) + "\n")
        (stand_in / "RECORD").write_text(f"{stand_in.name}/METADATA,,\n")  # what uv removes to replace it
        made.append(stand_in)
    return made


def search_base(base: Interpreter, folder: Path) -> None:
    """Let a Python that finds its packages in `folder` go on searching where `base` searches."""
    # Each of the base's folders as a site folder, so that what is installed there by reference counts too.
    lines = [f"import site; site.addsitedir({str(place)!r})\n" for place in base.site_folders]
    (folder / _BASE_PATHS).write_text("".join(lines))


def take_over_scripts(base: Interpreter, scripts: Path, final: Path) -> None:
    """Give the layer the base's own commands, so that ``pytest`` too sees what was added."""
    pythons = [
        base.scripts / name for name in ("python", "python3", f"python{base.version.rpartition('.')[0]}")
    ]
    for path in sorted(base.scripts.iterdir()) if base.scripts.is_dir() else ():
        taken = scripts / path.name
        if path.is_file() and not path.is_symlink() and not taken.exists():
            content = None
            with suppress(
                PermissionError
            ):  # a program that may only be executed, as some keep sudo, is no script
                content = _with_interpreter(path, pythons, final / "python")
            if content is not None:
                taken.write_bytes(content)
                taken.chmod(stat.S_IMODE(path.stat().st_mode))


def _with_interpreter(script: Path, old: list[Path], new: Path) -> bytes | None:
    """The script's content with `new` for its interpreter; None if it is no script of `old`."""
    with script.open("rb") as file:
        beginning = file.read(512)
        if not beginning.startswith(b"#!"):
            return None
        for python in sorted(map(os.fsencode, old), key=len, reverse=True):
            # Directly, or through a shell where the path is long or has spaces.
            for form in (b"#!%s\n", b"#!%s ", b"'''exec' \"%s\" ", b"'''exec' %s "):
                if form % python in beginning:
                    replaced = beginning.replace(form % python, form % os.fsencode(new), 1)
                    return replaced + file.read()
    return None
