"""What every object store must do: tests for whichever one the fixture `objects` opens.

A module of tests for one kind of store imports all of this; its `objects` is empty, and lies in the store.
"""

import random

import pytest

from conjure.runs.objects.base import MissingObjectError, ObjectsError
from conjure.runs.objects.store_check import probe


def test_what_is_written_is_read(objects):
    objects.put("a/b", b"0123456789")
    assert objects.get("a/b") == b"0123456789"
    assert objects.get_range("a/b", 2, 3) == b"234"
    assert b"".join(objects.pieces("a/b")) == b"0123456789"
    objects.put("a/b", b"again")
    assert objects.get("a/b") == b"again"
    objects.put("empty", b"")
    assert objects.get("empty") == b""
    assert b"".join(objects.pieces("empty")) == b""


def test_a_file_of_several_parts_arrives_whole(objects, tmp_path):
    content = random.Random(0).randbytes(9_000_000)
    (tmp_path / "file").write_bytes(content)
    objects.put_file("a/file", tmp_path / "file")
    assert objects.get("a/file") == content
    assert objects.get_range("a/file", 8_388_600, 16) == content[8_388_600:8_388_616]


def test_names_are_told_by_prefix_and_removed(objects):
    names = {f"runs/{number}/run.json" for number in range(30)} | {"uploads/a%20b/1.json"}
    for name in names:
        objects.put(name, name.encode())
    assert set(objects.names("runs")) == {name for name in names if name.startswith("runs/")}
    assert set(objects.names("")) == names
    assert objects.get("uploads/a%20b/1.json") == b"uploads/a%20b/1.json"
    objects.delete([*names, "none"])
    assert list(objects.names("")) == []


def test_what_is_not_there_is_told_so(objects):
    for read in (
        objects.get,
        lambda name: objects.get_range(name, 0, 1),
        lambda name: list(objects.pieces(name)),
    ):
        with pytest.raises(MissingObjectError, match="no such object"):
            read("none")


def test_an_object_that_is_too_short_is_an_error(objects):
    objects.put("a", b"123")
    with pytest.raises(ObjectsError):
        objects.get_range("a", 1, 5)


def test_a_probe_leaves_nothing_behind(objects):
    assert probe(objects).in_words().startswith("reads, writes, lists and deletes")
    assert list(objects.names("probe")) == []
