"""What the supervisor of a team's run sends to the object store, while it goes on and at its end."""

import pytest

from conjure.core.files import sha256_bytes
from conjure.errors import StoreError
from conjure.runs.artifacts import team_upload
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.artifacts.team_runs import TeamRuns
from conjure.runs.artifacts.team_upload import RunUploader
from conjure.runs.objects.base import blob, record_object, segment
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import MountFacts
from conjure.runs.schema.resource import KEPT_FILES
from conjure.runs.schema.run_folder import LOG_FILE, RunFolder
from support.casting import add_run, wait_until
from support.repositories import write_files

HERE = Owner("host", "boot", 1, "1")
FIRST, LAST = b'{"text": "first"}\n', b'{"text": "last"}\n'


@pytest.fixture
def uploader(shared_store):
    number = add_run(shared_store, retry=1).number
    (shared_store.home.run_folder(number) / LOG_FILE).write_bytes(FIRST + b"begun")
    started = RunUploader(shared_store, number, shared_store.begin_attempt(number, HERE))
    started.start()
    yield started
    started.finish(0.0, lambda: None)
    started.export_record()


def test_who_follows_a_run_from_elsewhere_sees_its_log_while_it_goes_on(uploader, team, member):
    with team.files(member) as files:
        wait_until(lambda: team.index.streams(1), "the log", patience_s=30)
        assert files.objects.get(segment(1, 1, LOG_FILE, 0)) == FIRST  # whole lines only
        wait_until(lambda: [*files.objects.names("runs/1/attempts")], "the attempt's note", patience_s=30)
        assert files.attempt_at(1, 1) == 1


def test_what_was_written_last_is_sent_at_the_end(uploader, team, member):
    with team.files(member) as files:
        wait_until(lambda: team.index.streams(1), "the first look")
        (member.run_folder(1) / LOG_FILE).write_bytes(FIRST + LAST)
        uploader.finish(0.0, lambda: None)
        assert files.objects.get(segment(1, 1, LOG_FILE, 0)) == FIRST + LAST
        team.index.changed.add(1)
        uploader.export_record()
        assert b'"number": 1' in files.objects.get(record_object(1))


def test_the_files_that_a_run_was_given_are_there_for_its_reruns(shared_store, team, member):
    number, digest = add_run(shared_store).number, sha256_bytes(b"given")
    source = f"{KEPT_FILES}/{digest}/given.txt"
    write_files(member.root, {source: "given"})
    mount = MountFacts("given.txt", "given.txt", read_only=True, source=source)
    shared_store.set_facts(number, mounts=(mount,))
    uploader = RunUploader(shared_store, number, shared_store.begin_attempt(number, HERE))
    uploader.start()
    uploader.finish(0.0, lambda: None)
    uploader.export_record()
    with team.files(member) as files:
        assert files.objects.get(blob(digest)) == b"given"


def test_what_cannot_be_sent_at_the_end_is_tried_again_for_a_while(uploader, team, member, monkeypatch):
    monkeypatch.setattr(team_upload, "_PAUSE_S", 0.0)
    wait_until(lambda: team.index.streams(1), "the first look")
    aside = team.objects.rename(team.objects.with_name("aside"))
    team.objects.write_text("the store is away")
    (member.run_folder(1) / LOG_FILE).write_bytes(FIRST + LAST)
    tries = []

    def come_back():
        alive = [each for each in (uploader._thread, uploader._input_thread) if each.is_alive()]
        if not alive and not tries:  # what is said next was not sent by a thread that went on meanwhile
            tries.append(1)
            team.objects.unlink()
            aside.rename(team.objects)

    uploader.finish(60.0, come_back)
    assert len(tries) == 1
    with team.files(member) as files:
        assert files.objects.get(segment(1, 1, LOG_FILE, 0)) == FIRST + LAST


def test_the_state_in_which_a_command_ended_is_there_for_the_next_attempt(uploader, team, member):
    work = RunFolder(member.run_folder(1)).work
    work.mkdir()
    uploader.end_checkpoints()  # the command is over before anybody looked at its files
    uploader.watch_checkpoints(1, ["*.ckpt"])
    (work / "state.ckpt").write_text("the last state")
    (work / "other.txt").write_text("not asked for")
    uploader.send_last_checkpoint()
    with team.files(member) as files:
        attempt, checkpoint = files.newest_checkpoint(1, before=2)
    assert (attempt, checkpoint.place) == (1, 1)
    assert team.read(member, checkpoint.manifest) == {"state.ckpt": b"the last state"}


def test_a_checkpoint_is_sent_as_soon_as_it_is_written(uploader, team, member):
    work = RunFolder(member.run_folder(1)).work
    work.mkdir()
    (work / "state.ckpt").write_text("early")
    uploader.watch_checkpoints(1, ["*.ckpt"])
    with team.files(member) as files:
        wait_until(lambda: files.newest_checkpoint(1, before=2), "a checkpoint", patience_s=30)


def test_what_a_run_saved_is_stored_by_its_digest(uploader, team, member):
    outputs = RunFolder(member.run_folder(1)).outputs
    outputs.mkdir()
    (outputs / "made.txt").write_text("made")
    digest = uploader.store_outputs(outputs, take_manifest(outputs))
    assert team.read(member, digest) == {"made.txt": b"made"}
    assert uploader.sent_outputs == 1


def test_what_was_sent_before_a_try_failed_is_counted(uploader, team, member, monkeypatch):
    outputs = RunFolder(member.run_folder(1)).outputs
    outputs.mkdir()
    (outputs / "made.txt").write_text("made")

    def refuse(*_):
        raise StoreError("away")

    monkeypatch.setattr(TeamRuns, "put_manifest", refuse)
    with pytest.raises(StoreError):
        uploader.store_outputs(outputs, take_manifest(outputs))
    assert uploader.sent_outputs == 1


def test_a_home_of_its_own_sends_nothing(store):
    alone = RunUploader(store, add_run(store).number, 1)
    alone.start()
    alone.watch_checkpoints(1, ["*"])
    assert alone.store_outputs(store.home.root, take_manifest(store.home.run_folder(1))) is None
    alone.finish(0.0, lambda: pytest.fail("there is nothing to send"))
