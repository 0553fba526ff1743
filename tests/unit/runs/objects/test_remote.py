"""Objects in a folder: what every store must do, and every failure is one sentence without a key."""

from types import SimpleNamespace

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from conjure.errors import UsageError
from conjure.runs.objects.base import ObjectsError, number_of_record, segment
from conjure.runs.objects.remote import check_address, open_objects
from conjure.runs.objects.store_check import probe
from support.object_contract import *  # noqa: F403


@pytest.fixture
def objects(tmp_path):
    return open_objects(f"file://{tmp_path}/a folder/objects".replace(" ", "%20"))


def test_the_folder_is_made_and_can_refuse_to_overwrite(objects, tmp_path):
    assert (tmp_path / "a folder" / "objects").is_dir()
    assert probe(objects).refuses_to_overwrite


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
    ("address", "variable"),
    [
        ("s3://bucket/p?region=us-east-1", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/p", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://teams/p?account=a", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_where_no_keys_are_found_it_is_said_how_to_give_them(address, variable, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    error = GenericError("Error performing GET http://169.254.169.254/token - HTTP error")
    told = open_objects(address)._translated(error)
    assert str(told) == f"{address} cannot be used: no credentials were found"
    assert variable in told.hint


def test_what_a_store_says_of_a_refusal_is_shortened_to_its_word():
    said = """The operation failed: Server returned 403 Forbidden: <?xml version="1.0"?>
<Error><Code>AuthenticationFailed</Code><Message>The MAC signature 'c2ln' is not …</Message></Error>"""
    told = open_objects("az://teams/p?account=a")._translated(PermissionDeniedError(said))
    assert str(told).endswith(
        "credentials: The operation failed: Server returned 403 Forbidden (AuthenticationFailed)"
    )


def test_a_key_that_cannot_be_one_is_told_without_it(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hunter2, which is not base64")
    with pytest.raises(ObjectsError, match=r"cannot be used: .*Invalid Access Key") as caught:
        open_objects("az://teams/p?account=a")
    assert "hunter2" not in str(caught.value)
    assert "AZURE_STORAGE_ACCOUNT_KEY" in caught.value.hint


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
        ("az:///x?account=a", "names no container"),
        ("az://teams/x", "names no storage account: write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONT"),
        ("az://teams/x?account=", "names no storage account"),
        ("az://teams/x?account=a&account_key=hunter2", "cannot have the parameter 'account_key'"),
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


def test_a_fetch_that_breaks_off_goes_on_where_it_was(objects, monkeypatch):
    content = bytes(range(256)) * 100_000
    objects.put("large", content)

    def break_off():
        yield content[:5_000_000]
        raise GenericError("the connection was closed")

    answers = [SimpleNamespace(meta={"size": len(content)}, stream=lambda **_: break_off())]
    again = objects._again
    monkeypatch.setattr(objects, "_again", lambda act: answers.pop() if answers else again(act))
    assert b"".join(objects.pieces("large")) == content
