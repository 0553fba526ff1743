"""What tests of runs in containers share: podman with a store of its own, and two images made from files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.casting import ending_runs
from support.containers import BUSYBOX, SMALL, WITH_PYTHON, import_image, podman

# Podman of this test only; limits that also hold where those of the machine cannot be raised.
CONTAINERS = """[engine]
runtime = "runc"
lock_type = "file"
tmp_dir = "{folder}/tmp"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"""
STORAGE = """[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


@pytest.fixture(scope="session", autouse=True)
def store(tmp_path_factory):
    """A store of images for these tests, with the images in it."""
    folder = tmp_path_factory.mktemp("podman")
    missing = [name for name in ("podman", "runc", "catatonit") if shutil.which(name) is None]
    if missing or not Path(BUSYBOX).exists():
        pytest.fail(
            f"podman cannot run here: {', '.join(missing) or BUSYBOX} is not installed (make test-images)"
        )
    with pytest.MonkeyPatch.context() as patch:
        for driver in ("overlay", "vfs"):  # the second copies each image whole, but works everywhere
            place = folder / driver
            place.mkdir()
            for variable, text in (("CONTAINERS_CONF", CONTAINERS), ("CONTAINERS_STORAGE_CONF", STORAGE)):
                path = place / f"{variable.lower()}.conf"
                path.write_text(text.format(folder=place, driver=driver))
                patch.setenv(variable, str(path))
            if subprocess.run(["podman", "info"], capture_output=True, check=False).returncode == 0:
                break
        import_image(folder, SMALL, {})
        yield folder
        podman("system", "reset", "--force")


@pytest.fixture(scope="session")
def python_image(store):
    """An image with this machine's Python."""
    program = Path(os.path.realpath(sys.executable))
    library = Path(os.__file__).parent
    told = subprocess.check_output(["ldd", str(program)], text=True)
    needed = [word for word in told.split() if word.startswith("/")]
    found = {name: os.path.realpath(name) for name in needed}
    import_image(store, WITH_PYTHON, {str(program): program, str(library): library, **found})
    return WITH_PYTHON, str(program)


@pytest.fixture(autouse=True)
def user_home(tmp_path, monkeypatch):
    """A user's home with something private in it."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "private.txt").write_text("private\n")
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def client(home, folder):
    """A client whose runs leave no container behind."""
    with ending_runs(home) as client:
        yield client
    assert podman("ps", "--all", "--quiet") == ""
