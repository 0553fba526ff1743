"""What tests of runs in containers share: podman and docker with stores of their own, images from files."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.casting import ending_runs, wait_until
from support.containers import BUSYBOX, SMALL, WITH_PYTHON, engine, folder_of_programs, import_image

# Podman of this test only; limits that also hold where those of the machine cannot be raised.
CONTAINERS = """[engine]
runtime = "runc"
lock_type = "file"
tmp_dir = "{folder}/tmp"
static_dir = "{folder}/static"
volume_path = "{folder}/volumes"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"""
STORAGE = """[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
rootless_storage_path = "{folder}/graph"
runroot = "{folder}/run"
"""


DOCKERD = ("--iptables=false", "--ip6tables=false", "--bridge=none")
PROGRAMS = {"podman": ("podman", "runc", "catatonit"), "docker": ("docker", "dockerd", "catatonit")}


# `pytest -m podman` chooses all tests with one program; `-k podman` also chooses by the names of tests.
@pytest.fixture(
    scope="session",
    params=[pytest.param(each, marks=getattr(pytest.mark, each)) for each in PROGRAMS],
    autouse=True,
)
def store(request, tmp_path_factory):
    """A store of images for these tests, with the images in it."""
    missing = [name for name in PROGRAMS[request.param] if shutil.which(name) is None]
    if missing or not Path(BUSYBOX).exists():
        pytest.fail(
            f"{request.param} cannot run here: {', '.join(missing) or BUSYBOX} is not installed"
            " (make test-images)"
        )
    if request.param == "docker" and os.getuid() != 0:
        pytest.skip("only root can start docker's daemon")
    folder = tmp_path_factory.mktemp(request.param)
    using = _using_podman if request.param == "podman" else _using_docker
    with pytest.MonkeyPatch.context() as patch, using(folder, patch):
        import_image(folder, SMALL, {})
        yield folder


@contextlib.contextmanager
def _using_podman(folder, patch):
    for driver in ("overlay", "vfs"):  # the second copies each image whole, but works everywhere
        place = folder / driver
        place.mkdir()
        for variable, text in (("CONTAINERS_CONF", CONTAINERS), ("CONTAINERS_STORAGE_CONF", STORAGE)):
            path = place / f"{variable.lower()}.conf"
            path.write_text(text.format(folder=place, driver=driver))
            patch.setenv(variable, str(path))
        if subprocess.run(["podman", "info"], capture_output=True, check=False).returncode == 0:
            break
    if not Path(engine("info", "--format", "{{.Store.GraphRoot}}")).is_relative_to(folder):
        pytest.fail("podman does not keep its images where these tests say, and they remove all images")
    yield
    engine("system", "reset", "--force")
    if os.getuid() != 0:
        engine("system", "migrate")  # ends the process that it keeps for a user's containers


@contextlib.contextmanager
def _using_docker(folder, patch):
    """A machine without podman, and a daemon for these tests alone."""
    programs = Path(tempfile.mkdtemp())  # where other users can see it too
    programs.chmod(0o755)
    patch.setenv("PATH", folder_of_programs(programs, ["podman"]))
    socket = folder / "docker.sock"
    patch.setenv("DOCKER_HOST", f"unix://{socket}")
    folders = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", *DOCKERD, *folders, f"--host=unix://{socket}"], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _answers(daemon, folder / "log"), "the daemon answers")
        yield
    finally:
        daemon.terminate()
        daemon.wait()
        _unmount_all(folder)
        shutil.rmtree(folder / "data")
        shutil.rmtree(programs)


def _unmount_all(folder):
    """What the daemon leaves mounted, which nothing could be removed around."""
    mounted = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if place.is_relative_to(folder):
            subprocess.run(["umount", str(place)], check=True)


def _answers(daemon, log):
    if daemon.poll() is not None:
        pytest.fail(f"docker cannot run here: {log.read_text()[-400:]}")
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


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
    assert engine("ps", "--all", "--quiet") == ""
