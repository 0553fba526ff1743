"""What conjure 0.1.0 left: a home it made, and the code of its supervisors.

Main entries: `unpack_home`, `unpack_code`, `as_old_conjure`. `scripts/make-home-fixture` says what the home
holds; it is never made again.
"""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from conjure.core.home import Home

_FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSION = "0.1.0"


def unpack_home(root: Path) -> Home:
    """The home that 0.1.0 made, at `root`; `root` must not exist.

    Files get new inodes, by which a run's beginning is remembered for `recover`. On an upgrade in place they
    stay, so the marks of what run 6 was given are brought up to date.
    """
    with tarfile.open(_FIXTURES / f"home-{VERSION}.tar.gz") as packed:
        # The archive is ours. Python 3.11 has filters from 3.11.4 on, and later versions want one.
        trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        packed.extractall(root.parent / "unpacked", **trusted)
    (root.parent / "unpacked" / "home").rename(root)
    folder = root / "runs" / "6"
    given = {}
    for name in json.loads((folder / "before.json").read_text()):
        facts = (folder / "work" / name).stat()
        given[name] = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    (folder / "before.json").write_text(json.dumps(given))
    return Home(root)


def unpack_code(folder: Path) -> Path:
    """The part of conjure 0.1.0 that submits and supervises runs, as a package in `folder`; the package."""
    with zipfile.ZipFile(_FIXTURES / f"conjure-{VERSION}.zip") as packed:
        packed.extractall(folder)
    package = folder / "conjure"
    (folder / "src" / "conjure").rename(package)
    return package


def as_old_conjure(package: Path, script: str, **variables: str) -> str:
    """Run a Python script with the conjure in `package`; what it printed."""
    own = {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **own, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
