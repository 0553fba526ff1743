"""Podman or docker for tests: what it prints, and images made from files of this machine."""

import contextlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

BUSYBOX = "/bin/busybox"
SMALL, WITH_PYTHON = "localhost/small:1", "localhost/python:1"


def engine(*arguments):
    """What podman prints, or docker where there is no podman; a failure fails the test with its words."""
    name = "podman" if shutil.which("podman") else "docker"
    done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{name} cannot run here: {name} {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def folder_of_programs(folder, left_out):
    """A folder for PATH that has the programs of this machine, but for those left out."""
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            with contextlib.suppress(FileExistsError):
                if program.name not in left_out:
                    (folder / program.name).symlink_to(program)
    return str(folder)


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
    engine("import", str(archive), name)
    archive.unlink()
    shutil.rmtree(root)


def _without_packages(member):
    left_out = ("site-packages", "dist-packages", "__pycache__", "/test", "/config-")
    return None if any(part in member.name for part in left_out) else member
