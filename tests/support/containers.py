"""Podman for tests: what it prints, and images made from files of this machine."""

import contextlib
import shutil
import subprocess
import tarfile

import pytest

BUSYBOX = "/bin/busybox"
SMALL, WITH_PYTHON = "localhost/small:1", "localhost/python:1"


def podman(*arguments):
    """What podman prints; a failure fails the test with its words."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"podman cannot run here: podman {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def import_image(folder, name, files):
    """Make an image with busybox, and with files of this machine, by their places in the image."""
    root = folder / "root"
    for part in ("bin", "tmp", "etc", "root"):
        (root / part).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        with contextlib.suppress(FileExistsError):
            (root / "bin" / applet).symlink_to("busybox")
    archive = folder / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".")
        for target, source in files.items():
            tar.add(source, target.lstrip("/"), filter=_without_packages)
    podman("import", str(archive), name)
    archive.unlink()
    shutil.rmtree(root)


def _without_packages(member):
    left_out = ("site-packages", "dist-packages", "__pycache__", "/test", "/config-")
    return None if any(part in member.name for part in left_out) else member
