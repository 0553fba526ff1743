"""An image of Debian whose apt has a few packages made here, and wheels for its pip: without a network."""

import hashlib
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from support.containers import engine

_FOLDER = "/opt/packages"
_FIELDS = "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\n"


def import_debian(folder, name, root, packages):
    """Make an image of Debian.

    Args:
        folder: Where there is room.
        name: Of the image.
        root: Archive of its root filesystem.
        packages: What its apt can install: ``files``, ``postinst`` and ``depends`` of each, by its name.
    """
    built = folder / "packages"
    built.mkdir()
    stanzas = [_make_package(built, each, **parts) for each, parts in packages.items()]
    (built / "Packages").write_text("\n".join(stanzas))
    sources = folder / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{_FOLDER} ./\n")
    archive = folder / "debian.tar"
    shutil.copy(root, archive)
    with tarfile.open(archive, "a") as tar:
        tar.add(sources, "./etc/apt/sources.list")
        tar.add(built, f".{_FOLDER}")
    engine("import", str(archive), name)
    archive.unlink()
    shutil.rmtree(built)


def _make_package(folder, name, *, files=None, postinst=None, depends=None, version="1.0"):
    """Make a Debian package; gives its entry in the index."""
    tree = folder / name
    control = _FIELDS.format(name=name, version=version)
    control += f"Depends: {depends}\n" if depends else ""
    control += f"Description: {name}, for a test\n"
    scripts = {"DEBIAN/postinst": f"#!/bin/sh\n{postinst}\n"} if postinst else {}
    for place, text in {"DEBIAN/control": control, **(files or {}), **scripts}.items():
        path = tree / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    package = folder / f"{name}_{version}_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(package)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return f"{control}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"


def make_wheel(folder, name, version):
    """Make a wheel of a module that tells its version."""
    about = f"{name}-{version}.dist-info"
    parts = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    parts[f"{about}/RECORD"] = "".join(f"{place},,\n" for place in (*parts, f"{about}/RECORD"))
    path = Path(folder) / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in parts.items():
            archive.writestr(place, text)
    return path
