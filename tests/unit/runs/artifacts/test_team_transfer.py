"""Whose folder of a run counts in a team's home: the one it has itself, or what was brought of others."""

import json
import os
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from conjure.core.files import lock_folder, locked
from conjure.core.trees import remove_tree
from conjure.runs.artifacts import team_transfer
from conjure.runs.artifacts.manifest import Entry, Manifest, take_manifest
from conjure.runs.artifacts.team_files import DamagedObjectError, SharedManifest
from conjure.runs.artifacts.team_transfer import (
    StreamFollower,
    bring_files,
    bring_upload_list,
    evict,
    is_left_over,
)
from conjure.runs.artifacts.uploads import list_uploads, remove_upload, upload
from conjure.runs.database.record_files import write_record
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.host.process import this_process
from conjure.runs.lifecycle.first_node import _take_folder
from conjure.runs.objects.base import segment, upload_object
from conjure.runs.objects.index import ObjectIndex, Streams, UploadRow
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunProgress
from conjure.runs.schema.resource import Resource
from conjure.runs.schema.run_folder import LOG_FILE, RunFolder
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run
from support.repositories import write_files

STOPPED = Ending(EndReason.STOP_REQUESTED)


@pytest.mark.parametrize(
    ("entered", "ending", "is_so"),
    [
        ((RunStatus.REQUESTED, RunStatus.RUNNING), None, True),
        ((RunStatus.REQUESTED, RunStatus.RUNNING), STOPPED, True),
        ((RunStatus.REQUESTED,), None, True),
        ((RunStatus.REQUESTED,), STOPPED, False),  # the attempt that followed never came to its command
    ],
)
def test_a_folder_is_left_over_once_another_machine_has_the_run(store, entered, ending, is_so):
    facts = RunProgress(dict.fromkeys(entered, 1.0), None if ending is None else 2.0, ending)
    owner = Owner("another machine", "boot", 7, "then")
    record = replace(add_run(store, on="gpu"), facts=facts, owner=owner)
    assert record.status.is_final is (ending is not None)
    assert is_left_over(store.home, record) is is_so


def log_here(home, number):
    return RunFolder.of(home, number).log.read_text()


def send_log(team, home, number, attempt, text):
    """What the supervisor of an attempt on another machine sends."""
    with team.files(home) as files:
        files.objects.put(segment(number, attempt, LOG_FILE, 0), text.encode())
    team.index.set_streams(number, Streams(attempt, len(text), 0))


def test_who_follows_a_run_leaves_its_folder_to_the_supervisor_that_takes_it_up_here(
    team, member, shared_store
):
    number = add_run(shared_store, on="gpu").number
    remove_tree(member.runs / str(number))  # it waits for a cluster, of which this machine may be a node
    with StreamFollower(member, number) as follower:
        follower.bring()
        assert member.is_elsewhere(number)
        lock = _take_folder(member, number)
        shared_store.begin_attempt(number, this_process(member))
        RunFolder.of(member, number).log.write_text("printed here\n")
        send_log(team, member, number, 1, "printed")
        follower.bring()
        assert member.run_folder(number) == member.runs / str(number)
        assert log_here(member, number) == "printed here\n"
        lock.release()
        follower.bring()  # and it stays so once the supervisor is gone
        assert not member.is_elsewhere(number)


def test_who_follows_a_run_has_what_its_next_attempt_prints_elsewhere(team, member, shared_store):
    record = add_run(shared_store, on="gpu", retry=1)
    here = member.runs / str(record.number)
    write_record(member, record)
    lock = RunLock.take_if_free(here)
    with StreamFollower(member, record.number) as follower:
        follower.bring()
        shared_store.begin_attempt(record.number, Owner("another machine", "boot", 7, "then"))
        send_log(team, member, record.number, 1, "second attempt\n")
        follower.bring()  # the supervisor of the first one here is still to hear that
        assert not member.is_elsewhere(record.number)
        lock.release()
        follower.bring()
        assert log_here(member, record.number) == "second attempt\n"


@pytest.fixture
def full_cache(home):
    """A home whose cache has two runs where there is room for none: 1 was used before 2."""
    home.create().config_file.write_text('[team]\ncache = "1KB"\n')
    for number in (1, 2):
        write_files(home.fetched / str(number), {"outputs/f": "x" * 1500})
        os.utime(home.fetched / str(number), (number, number))
    return home


def cached(home):
    return sorted(path.name for path in home.fetched.iterdir())


def test_what_another_process_removes_from_the_cache_meanwhile_is_passed_over(full_cache, monkeypatch):
    measure = team_transfer.tree_size_bytes

    def measure_while_another_removes(folder):
        for other in full_cache.fetched.iterdir():
            if other != folder:
                remove_tree(other)
        return measure(folder)

    monkeypatch.setattr(team_transfer, "tree_size_bytes", measure_while_another_removes)
    assert evict(full_cache, set()) == 1500
    assert cached(full_cache) == []


def test_what_is_being_fetched_is_not_removed_from_the_cache(full_cache):
    with locked(full_cache.fetched / "1" / ".lock"):
        assert evict(full_cache, set()) == 1500
    assert cached(full_cache) == ["1"]


def test_what_is_followed_is_not_what_was_used_longest_ago(team, member, shared_store):
    number = add_run(shared_store, on="gpu").number
    remove_tree(member.runs / str(number))
    send_log(team, member, number, 1, "printed\n")
    with StreamFollower(member, number) as follower:
        follower.bring()
        os.utime(member.fetched / str(number), (1, 1))
        follower.bring()
    assert (member.fetched / str(number)).stat().st_mtime > 1


def test_an_upload_that_another_process_lists_before_it_is_in_place_has_succeeded(
    team, member, tmp_path, monkeypatch
):
    write_files(tmp_path, {"data/a.txt": "a"})
    add_upload = team.index.add_upload

    def list_at_once(row):
        added = add_upload(row)
        bring_upload_list(member)  # as `conjure ls uploads` in another terminal
        return added

    monkeypatch.setattr(team.index, "add_upload", list_at_once)
    assert upload(member, tmp_path / "data").upload.version == 1
    bring_files(member, Resource.of_source("uploads/data@1"))
    assert (member.uploads / "data" / "1" / "folder" / "a.txt").read_text() == "a"


def test_who_removes_an_upload_leaves_a_version_that_is_being_copied(member, tmp_path):
    write_files(tmp_path, {"data/a.txt": "a"})
    upload(member, tmp_path / "data")
    copied = member.uploads / "data" / ".new-copied"
    copied.mkdir()
    with lock_folder(copied):
        remove_upload(member, "data", None)
        assert copied.is_dir()
    upload(member, tmp_path / "data")
    remove_upload(member, "data", None)
    assert not copied.exists()


SOUND = UploadRow("data", 1, "folder", 1, 1, 1.0, "/x", "0" * 64, removed=True)


def unsound_rows(outside):
    """Rows as a careless or hostile teammate may write them: each would change what is elsewhere."""
    return [
        replace(SOUND, name="../runs", version=12),
        replace(SOUND, name=str(outside)),
        replace(SOUND, name="../runs", removed=False),
        replace(SOUND, name=".."),
        replace(SOUND, version=-1),
        replace(SOUND, kind="../../../out", removed=False),
        replace(SOUND, kind="x", removed=False),
        replace(SOUND, manifest="../blobs/x", removed=False),
    ]


def test_what_a_teammates_row_says_of_an_upload_changes_nothing_outside_the_uploads(
    team, member, monkeypatch, tmp_path
):
    outside = tmp_path / "checkpoints"
    write_files(outside, {"1/a.bin": "mine"})
    write_files(member.runs, {"12/outputs/a.bin": "mine"})
    write_files(member.uploads, {"data/1/folder/a.txt": "old"})
    rows = [asdict(row) for row in (*unsound_rows(outside), SOUND)]
    monkeypatch.setattr(team, "index", ObjectIndex(SimpleNamespace(query=lambda *_: rows)))
    before = [*member.root.rglob("*"), *outside.rglob("*")]
    assert list_uploads(member) == []
    gone = {member.uploads / "data" / each for each in ("1", "1/folder", "1/folder/a.txt")}
    assert {*member.root.rglob("*"), *outside.rglob("*")} == set(before) - gone


def test_the_record_of_an_upload_in_the_store_is_believed_of_a_sound_version_only(team, member):
    records = {
        upload_object("data", 1): SOUND,
        upload_object("data", 2): replace(SOUND, version=2, kind="x"),
        upload_object("other", 1): SOUND,
        "uploads/x/1.json": replace(SOUND, name="../runs"),
    }
    with team.files(member) as files:
        for name, row in records.items():
            files.objects.put(name, json.dumps(asdict(row)).encode())
        read = {name: files._upload_row(name) for name in files.objects.names("uploads")}
    assert read == dict.fromkeys(records) | {upload_object("data", 1): SOUND}


def test_a_version_is_found_past_a_number_that_an_unsound_row_has(team, member, tmp_path):
    write_files(tmp_path, {"data/a.txt": "a"})
    team.index.add_upload(replace(SOUND, kind="x"))
    assert upload(member, tmp_path / "data").upload.version == 2


def test_files_are_not_brought_through_a_link_that_an_earlier_list_left(team, member, tmp_path):
    outside = tmp_path / "home"
    outside.mkdir()
    write_files(tmp_path, {"given/a/b/.bash_profile": "evil"})
    with team.files(member) as files:
        digest = files.store(tmp_path / "given", take_manifest(tmp_path / "given"))
        place = member.fetched / "7" / "outputs"
        first = SharedManifest(Manifest((Entry("a", 0, "", 0o777, str(outside)),)), {})
        files.fetch(first, place)
        with pytest.raises(DamagedObjectError, match="is a link"):
            files.fetch(files.load(digest), place)
    assert list(outside.iterdir()) == []
