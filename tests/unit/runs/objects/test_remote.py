"""Objects in a folder: what is written is read, and every failure is one sentence without a key."""

import hashlib

import pytest

from conjure.errors import UsageError
from conjure.runs.objects.base import MissingObjectError, ObjectsError, number_of_record, segment
from conjure.runs.objects.remote import check_address, open_objects
from conjure.runs.objects.store_check import probe


@pytest.fixture
def objects(tmp_path):
    return open_objects(f"file://{tmp_path}/a folder/objects".replace(" ", "%20"))


def test_what_is_written_is_read(objects, tmp_path):
    objects.put("a/b", b"0123456789")
    assert objects.get("a/b") == b"0123456789"
    assert objects.get_range("a/b", 2, 3) == b"234"
    assert b"".join(objects.pieces("a/b")) == b"0123456789"
    objects.put("a/b", b"again")
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000)
    objects.put_file("a/c", file)
    assert hashlib.sha256(objects.get("a/c")).digest() == hashlib.sha256(file.read_bytes()).digest()
    assert sorted(objects.names("a")) == ["a/b", "a/c"]
    objects.delete(["a/b", "a/c", "a/none"])
    assert list(objects.names("a")) == []
    assert (tmp_path / "a folder" / "objects").is_dir()


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
    assert probe(objects).refuses_to_overwrite
    assert list(objects.names("probe")) == []


def test_what_cannot_be_reached_is_tried_again_and_told(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    away = open_objects("s3://b/p?endpoint=http://127.0.0.1:9&region=us-east-1", tries=3)
    with pytest.raises(ObjectsError, match="cannot be reached") as caught:
        away.put("a", b"")
    assert len(slept) == 2
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://x/y", "is not an address of an object store"),
        ("/folder", "is not an address of an object store"),
        ("s3://key:hunter2@bucket/x", "has a key in it"),
        ("s3://bucket/x?secret=hunter2", "cannot have the parameter 'secret'"),
        ("gs://bucket/x?region=y", "none are allowed"),
        ("file://host/x", "names a host"),
        ("s3:///x", "names no bucket"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_its_key(address, said):
    with pytest.raises(UsageError) as caught:
        check_address(address)
    assert said in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.fix}"


def test_keys_are_read_from_the_file_of_amazons_programs(tmp_path, monkeypatch):
    secret = "aws_secret_access_key = b"
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = a\n{secret}\n[other]\naws_access_key_id = c\n{secret}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert open_objects("s3://bucket/p").store.config["access_key_id"] == "a"
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert open_objects("s3://bucket/p").store.config["access_key_id"] == "c"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of a variable")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another")
    assert open_objects("s3://bucket/p").store.config.get("access_key_id") != "c"


def test_names_tell_what_they_are_of():
    assert number_of_record("runs/12/run.json") == 12
    for other in ("runs/12/1/run.json", "runs/012/run.json", "runs/12/run.json.x", "links.json"):
        assert number_of_record(other) is None
    assert segment(3, 1, "log.jsonl", 262144) == "runs/3/1/log.jsonl/000000262144"
