"""Manifests: what is kept, and whether it still is."""

import json
import os
from pathlib import Path

import pytest

from conjure.errors import StoreError
from conjure.runs.artifacts.manifest import Entry, Manifest, take_manifest
from support.repositories import write_files

_ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    write_files(folder, {"a": "abc", f"sub/{_ODD}": ""})
    (folder / "a").chmod(0o444)
    (folder / "sub" / _ODD).chmod(0o555)
    (folder / "link").symlink_to(f"sub/{_ODD}")
    return folder


def test_entries(folder: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    manifest = take_manifest(folder)
    assert manifest.entries == (
        Entry("a", 3, abc, 0o444),
        Entry("link", 0, "", 0o777, f"sub/{_ODD}"),
        Entry(f"sub/{_ODD}", 0, empty, 0o555),
    )
    assert manifest.size_bytes == 3


def test_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest(take_manifest(folder).entries, (f"{_ODD} is a broken link",))
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json").entries == manifest.entries
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert stored["files"][0]["mode"] == "0444"
    assert stored["files"][2]["path"] == "sub/caf\\xe9"  # any reader of JSON can show it
    assert stored["skipped"] == ["caf\\xe9 is a broken link"]


def test_untouched_folder_has_no_faults(folder: Path) -> None:
    assert take_manifest(folder).find_faults(folder) == []


def test_every_change_is_found(folder: Path) -> None:
    manifest = take_manifest(folder)
    (folder / "a").chmod(0o644)
    (folder / "a").write_text("xyz")
    (folder / "link").unlink()
    (folder / "link").symlink_to("a")
    (folder / "sub" / _ODD).chmod(0o755)
    (folder / "new").write_text("n")
    assert manifest.find_faults(folder) == [
        "a was changed",
        "link was changed",
        "new was added",
        "sub/caf\\xe9 has mode 0755, not 0555",
    ]
    (folder / "a").write_text("longer")
    (folder / "new").unlink()
    (folder / "link").unlink()
    assert manifest.find_faults(folder)[:2] == ["a was changed (3 bytes then, 6 now)", "link is missing"]


def test_missing_folder(folder: Path, tmp_path: Path) -> None:
    faults = take_manifest(folder).find_faults(tmp_path / "gone")
    assert faults == ["a is missing", "link is missing", "sub/caf\\xe9 is missing"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', '{"format": 99}'])
def test_damaged_or_newer_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"is damaged|newer version of conjure"):
        Manifest.load(tmp_path / "manifest.json")
