"""Checks the sdist and the wheel in a folder: what they hold, and that each installs and works.

    scripts/clean-environment .venv/bin/python scripts/check_dist.py dist

The run half is installed by pip, uv and pipx, from both files, with and without a C compiler; once
all of it is, with a CPU build of torch.

Main entry: `main`. Invariants: what is in the files is what git tracks below src/; nothing is written outside
a temporary folder.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
CONSTRAINTS = str(REPOSITORY / "constraints.txt")
COMPILED = "conjure/lm/native/_forward"
# Beside the package: what building needs, and what says what it is.
SDIST_FILES = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def main(folder: Path) -> int:
    """Check everything; the exit status is 1 if something is not as it should be."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    faults = [*_faults_of_sdist(sdist), *_faults_of_wheel(wheel)]
    for fault in faults:
        _say(fault)
    if faults:
        return 1
    _say(f"{sdist.name} and {wheel.name} hold what they should")
    with tempfile.TemporaryDirectory(prefix="conjure-dist-") as place:
        trial = _Trial(Path(place).resolve())
        trial.with_pip("pip-wheel", str(wheel), compiled=True)
        trial.with_pip("pip-sdist", str(sdist), compiled=True)
        trial.with_pip("pip-sdist-no-compiler", str(sdist), compiled=False)
        trial.with_uv("uv-wheel", str(wheel), compiled=True)
        trial.with_uv("uv-sdist-no-compiler", str(sdist), compiled=False)
        trial.with_pipx("pipx-wheel", str(wheel), compiled=True)
        trial.with_everything("everything", f"{wheel}[all]")
        return 1 if trial.failed else 0


def _tracked() -> dict[str, bytes]:
    """The package's files in git: path below src/ -> content, links followed."""
    listed = subprocess.run(["git", "ls-files", "-z", "src"], cwd=REPOSITORY, capture_output=True, check=True)
    paths = listed.stdout.decode().rstrip("\0").split("\0")
    return {path.removeprefix("src/"): (REPOSITORY / path).read_bytes() for path in paths}


def _faults_of_sdist(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as packed:
        held = {
            str(PurePosixPath(*PurePosixPath(member.name).parts[1:])): file.read()
            for member in packed
            if (file := packed.extractfile(member)) is not None
        }
    package = {name.removeprefix("src/"): data for name, data in held.items() if name.startswith("src/")}
    package = {name: data for name, data in package.items() if not name.startswith("conjure.egg-info/")}
    beside = {name for name in held if not name.startswith("src/")}
    return [
        *_differences(sdist.name, package, _tracked()),
        *(f"{sdist.name} has {name}" for name in sorted(beside - SDIST_FILES)),
        *(f"{sdist.name} lacks {name}" for name in sorted(SDIST_FILES - beside)),
    ]


def _faults_of_wheel(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        held = {name: packed.read(name) for name in packed.namelist() if ".dist-info/" not in name}
    compiled = [name for name in held if name.startswith(COMPILED)]
    package = {name: data for name, data in held.items() if name not in compiled}
    wanted = {name: data for name, data in _tracked().items() if not name.endswith((".c", ".h"))}
    missing = [] if compiled else [f"{wheel.name} has no native engine"]
    return [*missing, *_differences(wheel.name, package, wanted)]


def _differences(where: str, held: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    return [
        *(f"{where} has {name}, which git does not track" for name in sorted(held.keys() - wanted.keys())),
        *(f"{where} lacks {name}" for name in sorted(wanted.keys() - held.keys())),
        *(
            f"{where} has another {name}"
            for name in sorted(wanted)
            if held.get(name, wanted[name]) != wanted[name]
        ),
    ]


class _Trial:
    """Environments in a temporary folder; keeps the names of those in which something failed."""

    def __init__(self, root: Path) -> None:
        self.failed: list[str] = []
        self._root = root

    def with_pip(self, name: str, package: str, *, compiled: bool) -> None:
        venv = self._root / name
        settings = {} if compiled else NO_COMPILER
        steps = [
            [sys.executable, "-m", "venv", venv],
            [venv / "bin/python", "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, package],
        ]
        self._try(name, steps, venv, settings, compiled=compiled)

    def with_uv(self, name: str, package: str, *, compiled: bool) -> None:
        venv = self._root / name
        settings = {} if compiled else NO_COMPILER
        install = [
            UV,
            "pip",
            "install",
            "--quiet",
            "--python",
            venv / "bin/python",
            "-c",
            CONSTRAINTS,
            package,
        ]
        steps = [[UV, "venv", "--quiet", "--python", sys.executable, venv], install]
        self._try(name, steps, venv, settings, compiled=compiled)

    def with_pipx(self, name: str, package: str, *, compiled: bool) -> None:
        tools, home = self._root / "pipx", self._root / name
        settings = {
            "PIPX_HOME": str(home),
            "PIPX_BIN_DIR": str(home / "bin"),
            "PIP_CONSTRAINT": CONSTRAINTS,
        }
        steps = [
            [UV, "venv", "--quiet", "--python", sys.executable, tools],
            [UV, "pip", "install", "--quiet", "--python", tools / "bin/python", "pipx"],
            [tools / "bin/pipx", "install", "--quiet", "--python", sys.executable, package],
        ]
        self._try(name, steps, home, settings, compiled=compiled)

    def with_everything(self, name: str, package: str) -> None:
        venv = self._root / name
        steps = [
            [sys.executable, "-m", "venv", venv],
            [REPOSITORY / "scripts/install-torch", venv],
            [venv / "bin/python", "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, package],
        ]
        self._try(name, steps, venv, {}, compiled=True, works=("doctor", "demo"))

    def _try(
        self,
        name: str,
        steps: list[list[object]],
        venv: Path,
        settings: Mapping[str, str],
        *,
        compiled: bool,
        works: tuple[str, ...] = ("--help", "run true"),
    ) -> None:
        """Install by these steps, then run conjure's commands in `works`."""
        started = time.monotonic()
        conjure = venv / "bin" / "conjure"
        variables = {**os.environ, **settings, "CONJURE_HOME": str(self._root / f"{name}-home")}
        for step in (*steps, *([conjure, *words.split()] for words in works)):
            words = list(map(str, step))
            done = subprocess.run(
                words,
                cwd=self._root,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                _say(f"{name}: FAILED: {' '.join(words)}\n{done.stdout[-4000:]}")
                self.failed.append(name)
                return
        if bool(list(venv.glob(f"**/site-packages/{COMPILED}*.so"))) != compiled:
            _say(f"{name}: FAILED: it has {'no' if compiled else 'a'} native engine")
            self.failed.append(name)
            return
        size = subprocess.run(["du", "-sm", venv], capture_output=True, text=True, check=True).stdout.split()[
            0
        ]
        _say(f"{name}: {', '.join(works)}: ok, {size} MB, {time.monotonic() - started:.0f} s")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
