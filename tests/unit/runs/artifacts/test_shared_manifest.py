"""The list of files as a team's store holds it: nothing in it may be written outside its folder."""

import json

import pytest

from conjure.runs.artifacts.manifest import Entry, Manifest
from conjure.runs.artifacts.team_files import DamagedObjectError, SharedManifest
from conjure.runs.objects.index import Place

LARGE = Entry("models/a.bin", 300_000, "1" * 64, 0o644)
SMALL = Entry("a.txt", 5, "2" * 64, 0o600)
LINK = Entry("link", 0, "", 0o777, "a.txt")


def test_what_is_written_is_read():
    places = {SMALL.digest: Place(5, "3" * 64, 17)}
    shared = SharedManifest(Manifest((SMALL, LINK, LARGE), ("a pipe",)), places)
    assert SharedManifest.from_bytes(shared.to_bytes()) == shared
    assert shared.objects() == {f"packs/{'3' * 64}", f"blobs/{'1' * 64}"}


def test_it_is_a_manifest_for_who_knows_nothing_of_stores(tmp_path):
    shared = SharedManifest(Manifest((SMALL, LINK)), {SMALL.digest: Place(5, "3" * 64, 0)})
    (tmp_path / "manifest.json").write_bytes(shared.to_bytes())
    assert Manifest.load(tmp_path / "manifest.json") == shared.manifest


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../out", "", "a\0b", "link/inside"])
def test_a_path_that_leads_out_is_refused(path):
    entry = Entry(path, 1, "4" * 64, 0o644)
    stored = SharedManifest(Manifest((LINK, entry)), {}).to_bytes()
    with pytest.raises(DamagedObjectError):
        SharedManifest.from_bytes(stored)


@pytest.mark.parametrize("stored", [b"", b"[]", b"{}", json.dumps({"files": [{}], "skipped": []}).encode()])
def test_what_is_none_is_told(stored):
    with pytest.raises(DamagedObjectError):
        SharedManifest.from_bytes(stored)
