"""What the probe reads of packages is what importlib.metadata reads."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from conjure.runs.environments import interpreter

HEAD = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
NEEDS = "Requires-Dist: herb>=1\nRequires-Dist: mint; extra == 'cold'\nProvides-Extra: cold\n"
DESCRIPTION = "\nName: other\nRequires-Dist: nothing\n"  # no longer part of the head


def test_names_versions_and_needs_are_read_from_the_head_alone(tmp_path: Path) -> None:
    for folder, file, text in (
        ("brew-1.0.dist-info", "METADATA", HEAD.format(name="brew") + NEEDS + DESCRIPTION),
        ("plain-1.0.dist-info", "METADATA", HEAD.format(name="plain") + DESCRIPTION),
        ("old.egg-info", "PKG-INFO", HEAD.format(name="old")),
        ("old.egg-info", "requires.txt", "herb>=1\n\n[cold]\nmint\n"),
        ("empty-1.0.dist-info", "METADATA", ""),
        ("~rew-0.9.dist-info", "METADATA", HEAD.format(name="left behind")),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-S", "-c", interpreter._PROBE.read_text("utf-8")],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    found = {each["name"]: each for each in json.loads(done.stdout)["packages"]}
    assert set(found) == {"brew", "plain", "old"}
    for package in distributions(path=[str(tmp_path)]):
        if package.metadata["Name"] in found:
            assert found[package.metadata["Name"]] == {
                "name": package.metadata["Name"],
                "version": package.version,
                "requires": package.requires or [],
                "extras": package.metadata.get_all("Provides-Extra") or [],
            }


@pytest.mark.parametrize("search", ["", ".", ":/nowhere", "code:/nowhere"])
def test_no_module_is_imported_from_the_folder_it_is_asked_in(home, tmp_path: Path, search: str) -> None:
    home.create()
    modules = ("json", "random", "email", "sitecustomize", "site", "sysconfig", "typing", "urllib")
    for folder in (tmp_path, tmp_path / "code"):
        folder.mkdir(exist_ok=True)
        for name in modules:
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    variables = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": search}
    found = interpreter.find_current(home, variables, tmp_path)
    assert not (tmp_path / "imported").exists()
    assert not any(str(folder).startswith(str(tmp_path)) for folder in found.search_path)


def test_folders_on_pythonpath_count_where_python_leaves_its_own_folder_out(home, tmp_path: Path) -> None:
    home.create()
    (tmp_path / "plain-1.0.dist-info").mkdir()
    (tmp_path / "plain-1.0.dist-info" / "METADATA").write_text(HEAD.format(name="plain"))
    variables = {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(tmp_path),
        "PYTHONSAFEPATH": "1",
    }
    assert interpreter.find_current(home, variables, tmp_path).versions["plain"] == "1.0"


def test_a_package_in_a_user_folder_that_is_made_later_counts(home, tmp_path: Path) -> None:
    home.create()
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    variables = {"PYTHONUSERBASE": str(tmp_path / "user")}
    before = interpreter.inspect(home, python, variables, tmp_path)
    user_folder = before.site_folders[0]
    assert user_folder.is_relative_to(tmp_path)
    metadata = user_folder / "plain-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(HEAD.format(name="plain"))
    assert interpreter.inspect(home, python, variables, tmp_path).versions["plain"] == "1.0"
