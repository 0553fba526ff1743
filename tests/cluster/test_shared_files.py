"""Files, logs and records in an object store, and what the database knows of them, without any run."""

import os

import pytest

from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, write_team
from conjure.errors import StoreError
from conjure.runs.artifacts.checkpoints import CheckpointSender, bring_checkpoint
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.artifacts.team_files import DamagedObjectError
from conjure.runs.artifacts.team_runs import TeamRuns
from conjure.runs.artifacts.team_transfer import StreamFollower, evict
from conjure.runs.database.base import SupersededError
from conjure.runs.database.open_database import share
from conjure.runs.database.postgres import PostgresDatabase, PostgresSession
from conjure.runs.database.postgres_migrations import upgrade
from conjure.runs.objects.base import SEGMENT_BYTES, ObjectsError, manifest, upload_object
from conjure.runs.objects.index import FRESH_S
from conjure.runs.objects.remote import RemoteObjects, open_objects
from conjure.runs.schema.record import OutputFacts
from conjure.runs.schema.run_folder import LOG_FILE, METRICS_FILE
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.repositories import read_files, write_files

DONE = Ending(EndReason.COMPLETED, 0)


class CountingObjects(RemoteObjects):
    """An object store that counts what is written, and fails from a certain write on."""

    def __init__(self, store):
        super().__init__(store.address, store.store, tries=1)
        self.written = []
        self.fails_after = None

    def _count(self, name):
        if self.fails_after is not None and len(self.written) >= self.fails_after:
            raise ObjectsError("it is away")
        self.written.append(name)

    def put(self, name, content):
        self._count(name)
        super().put(name, content)

    def put_file(self, name, path):
        self._count(name)
        super().put_file(name, path)


@pytest.fixture
def address(postgres):
    return postgres.new_database()


@pytest.fixture
def objects(tmp_path):
    return CountingObjects(open_objects(f"file://{tmp_path}/objects"))


@pytest.fixture
def members(tmp_path, address, objects):
    """Two homes of a team, the second without a run of its own."""
    homes = [Home(tmp_path / name).create() for name in ("ada", "bob")]
    session = PostgresSession(homes[0], address)
    upgrade(session)
    session.close()
    for home in homes:
        share(home, TeamSettings(address, objects.address, f"{home.root.name}@host/1"))
    return homes


@pytest.fixture
def files(members, address, objects):
    with PostgresDatabase.open(members[0], address) as database:
        found = TeamRuns(objects, database)
        found.index.set_objects_address(objects.address)
        yield found


@pytest.fixture
def folder(tmp_path):
    small = {f"d/{number}.txt": f"content {number}" for number in range(50)}
    write_files(tmp_path / "made", {**small, "large": "x" * 600_000, "same": "content 1", "empty": ""})
    (tmp_path / "made" / "d" / "0.txt").chmod(0o755)
    return tmp_path / "made"


def test_files_come_back_as_they_were_and_are_sent_once(files, objects, folder, tmp_path):
    listed = take_manifest(folder)
    digest = files.store(folder, listed)
    assert sorted(name.partition("/")[0] for name in objects.written) == ["blobs", "manifests", "packs"]
    shared = files.load(digest)
    assert shared.manifest == listed
    files.fetch(shared, tmp_path / "back")
    assert take_manifest(tmp_path / "back").entries == listed.entries
    objects.written.clear()
    assert files.store(folder, listed) == digest
    write_files(folder, {"new": "new"})
    files.store(folder, take_manifest(folder))
    assert len(objects.written) == 2  # the new one, and the list
    assert files.find_faults(shared) == []


def test_only_what_is_asked_for_is_fetched(files, folder, tmp_path):
    shared = files.load(files.store(folder, take_manifest(folder)))
    files.fetch(shared, tmp_path / "part", ("d",))
    assert len(read_files(tmp_path / "part")) == 50
    files.fetch(shared, tmp_path / "part", ("large",))
    assert len(read_files(tmp_path / "part")) == 51
    (folder / "link").symlink_to("large")
    linked = files.load(files.store(folder, take_manifest(folder)))
    files.fetch(linked, tmp_path / "all", ("link",))
    assert (tmp_path / "all" / "link").read_text() == "x" * 600_000


def test_what_was_sent_before_the_store_went_away_is_not_sent_again(files, objects, folder):
    write_files(folder, {"other": "y" * 600_000})
    objects.fails_after = 1
    with pytest.raises(ObjectsError):
        files.store(folder, take_manifest(folder))
    objects.fails_after = None
    files.store(folder, take_manifest(folder))
    assert len(objects.written) == len(set(objects.written)) == 4


def test_a_file_that_changed_since_its_digest_was_taken_is_not_sent_as_if_it_had_not(files, objects, folder):
    listed = take_manifest(folder)
    (folder / "same").write_text("changed")
    (folder / "d" / "1.txt").write_text("changed")
    with pytest.raises(StoreError, match="changed while it was being saved"):
        files.store(folder, listed)
    assert not [name for name in objects.written if name.startswith("packs")]


def test_a_large_file_that_is_damaged_is_not_stored_under_the_digest_that_it_had(files, objects, folder):
    listed = take_manifest(folder)
    (folder / "large").write_text("y" * 600_000)
    with pytest.raises(StoreError, match="large is damaged, or changed"):
        files.store(folder, listed)
    assert not [name for name in objects.written if name.startswith("blobs")]
    (folder / "large").write_text("x" * 600_000)
    shared = files.load(files.store(folder, listed))
    assert files.find_faults(shared) == []


def test_a_file_that_lies_in_a_pack_is_stored_by_itself_when_it_is_asked_for_so(files, folder, tmp_path):
    """As a file of the user's that a run is given: others fetch it by its digest."""
    listed = take_manifest(folder)
    files.store(folder, listed)
    digest = next(entry.digest for entry in listed.entries if entry.path == "d/1.txt")
    files.store_file(folder / "d/1.txt", digest)
    files.fetch_file(digest, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_text() == "content 1"


def test_a_damaged_object_is_never_taken_for_a_file(files, folder, tmp_path):
    digest = files.store(folder, take_manifest(folder))
    shared = files.load(digest)
    for path in (tmp_path / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(DamagedObjectError):
        files.fetch(shared, tmp_path / "back")
    assert not (tmp_path / "back" / "large").exists()
    assert "large was changed" in files.find_faults(shared)
    with pytest.raises(DamagedObjectError):
        files.load(digest)


# ---- removal -----------------------------------------------------------------------------------------------


def test_what_was_used_lately_or_is_needed_is_not_removed(files, folder):
    number = add_run(files.database).number
    digest = files.store(folder, take_manifest(folder))
    files.database.set_facts(number, outputs=OutputFacts(53, 1, manifest=digest))
    write_files(folder, {"alone": "z" * 600_000})
    files.store(folder, take_manifest(folder))
    assert files.prune() == (0, 0)
    removed, size = files.prune(unused_s=0)
    assert removed == 2  # the file and its list: all else is needed
    assert size >= 600_000
    assert files.find_faults(files.load(digest)) == []


def test_who_comes_during_a_removal_writes_it_anew_and_it_stays(files, objects, folder):
    digest = files.store(folder, take_manifest(folder))
    large = next(name for name in objects.written if name.startswith("blobs"))
    pack = next(name for name in objects.written if name.startswith("packs"))
    for name in (large, pack, manifest(digest)):
        assert files.index.begin_removal(name, unused_s=0)
    assert files.index.use([large, manifest(digest)]) == {}
    objects.written.clear()
    files.store(folder, take_manifest(folder))
    assert {large, pack, manifest(digest)} == set(objects.written)
    for name in (large, pack, manifest(digest)):
        assert files.index.finish_removal(name, objects) is None
    assert files.find_faults(files.load(digest)) == []


def test_a_pack_of_which_one_file_was_used_stays(files, objects, folder):
    files.store(folder, take_manifest(folder))
    pack = next(name for name in objects.written if name.startswith("packs"))
    age_objects(files, 2 * FRESH_S)
    one = next(name for name, place in files.index.unused(FRESH_S) if place == pack.partition("/")[2])
    files.index.use([one])
    assert not files.index.begin_removal(pack, unused_s=FRESH_S)
    assert files.index.use([one])


def test_a_use_within_the_hour_writes_nothing(files, folder):
    files.store(folder, take_manifest(folder))
    age_objects(files, FRESH_S / 2)
    before = last_uses(files)
    files.store(folder, take_manifest(folder))
    assert last_uses(files) == before
    age_objects(files, FRESH_S)
    files.store(folder, take_manifest(folder))
    blobs = {name for name in before if not name.startswith("packs")}
    assert all(last_uses(files)[name] > before[name] for name in blobs)


def age_objects(files, seconds):
    files.database.session.execute("UPDATE objects SET last_used = last_used - ?", (seconds,))


def last_uses(files):
    rows = files.database.session.query("SELECT name, last_used FROM objects")
    return {row["name"]: row["last_used"] for row in rows}


def test_a_removal_that_was_cut_off_is_finished_by_the_next(files, objects, folder):
    files.store(folder, take_manifest(folder))
    large = next(name for name in objects.written if name.startswith("blobs"))
    assert files.index.begin_removal(large, unused_s=0)
    assert files.prune(unused_s=10_000) == (1, 600_000)
    assert large not in list(objects.names("blobs"))


# ---- logs, records -----------------------------------------------------------------------------------------


def test_a_log_is_followed_across_the_borders_of_its_pieces(members, files):
    number = add_run(files.database).number
    folder = members[0].run_folder(number)
    line = b'{"text": "' + b"x" * 1000 + b'"}\n'
    log = folder / LOG_FILE
    sent = None
    with StreamFollower(members[1], number) as follower:
        for count in (1, 200, 1, 400):
            with log.open("ab") as file:
                file.write(line * count + b"half a line")
            (folder / METRICS_FILE).write_bytes(line * count)
            sent = files.send_streams(folder, number, 1, sent)
            follower.bring()
            with log.open("rb+") as file:
                file.truncate(log.stat().st_size - len(b"half a line"))
            assert (members[1].run_folder(number) / LOG_FILE).read_bytes() == log.read_bytes()
        assert log.stat().st_size > 2 * SEGMENT_BYTES
        files.send_streams(folder, number, 2)
        follower.bring()  # from another supervisor: from the beginning
        assert (members[1].run_folder(number) / LOG_FILE).read_bytes() == log.read_bytes()
    with pytest.raises(SupersededError):
        files.send_streams(folder, number, 1)


def test_a_run_that_was_taken_over_has_no_more_of_its_log_accepted(files, members):
    run = add_run(files.database)
    folder = members[0].run_folder(run.number)
    attempt = files.database.begin_attempt(run.number, run.owner)
    (folder / LOG_FILE).write_bytes(b"{}\n")
    sent = files.send_streams(folder, run.number, attempt)
    files.database.begin_attempt(run.number, run.owner)  # as who closes an abandoned run
    (folder / LOG_FILE).write_bytes(b"{}\n{}\n")
    with pytest.raises(SupersededError):
        files.send_streams(folder, run.number, attempt, sent)
    assert files.index.streams(run.number) == sent


def test_records_and_links_in_the_store_follow_the_database(members, files, objects, postgres, folder):
    number = add_run(files.database, labels=("a",)).number
    digest = files.store(folder, take_manifest(folder))
    files.database.set_facts(number, outputs=OutputFacts(53, 1, manifest=digest))
    finish(files.database, number, DONE)
    (members[0].run_folder(number) / LOG_FILE).write_bytes(b"{}\n" * 100_000)
    files.send_streams(members[0].run_folder(number), number, 3)
    files.database.set_link("best", "runs/1")
    active = add_run(files.database).number
    assert files.export_records() == 3
    assert files.export_records() == 0
    files.database.add_label(number, "later")
    assert files.export_records() == 1
    assert give(files, digest, 1, name="my data")
    session = PostgresSession(members[1], postgres.new_database())
    upgrade(session)
    with PostgresDatabase(session) as database:
        again = TeamRuns(objects, database)
        assert again.rebuild() == ([1, active], [])
        assert list(database.leases()) == [active]  # it is closed unless its supervisor is heard of
        assert database.get(number) == files.database.get(number)
        assert database.links()[0].resource == "runs/1"
        assert again.index.streams(number) == files.index.streams(number)
        assert again.index.uploads() == files.index.uploads()
        assert again.index.size()[0] == files.index.size()[0]
        objects.written.clear()
        assert again.store(folder, take_manifest(folder)) == digest
        assert objects.written == []
        assert add_run(database).number == 3


def give(files, digest, version, *, name="data"):
    return files.new_upload(
        name=name,
        version=version,
        kind="folder",
        files=53,
        size_bytes=1,
        created_at=1.0,
        source="/x",
        manifest=digest,
    )


def test_the_record_of_an_upload_follows_its_row_whatever_is_cut_off(files, objects, folder):
    digest = files.store(folder, take_manifest(folder))
    files.export_records()  # of the links, which a new store lacks
    objects.fails_after = len(objects.written)
    assert give(files, digest, 1)
    objects.fails_after = None
    assert list(objects.names("uploads")) == []
    assert files.export_records() == 1
    assert list(objects.names("uploads")) == [upload_object("data", 1)]
    files.index.remove_upload("data", 1)  # and is killed
    assert files.export_records() == 1
    assert list(objects.names("uploads")) == []
    assert files.export_records() == 0


def test_records_are_rebuilt_though_a_list_of_files_is_gone(files, objects, members, folder, postgres):
    digest = files.store(folder, take_manifest(folder))
    write_files(folder, {"new": "new"})
    other = files.store(folder, take_manifest(folder))
    assert give(files, digest, 1)
    assert give(files, other, 2)
    objects.delete([manifest(digest)])
    session = PostgresSession(members[1], postgres.new_database())
    upgrade(session)
    with PostgresDatabase(session) as database:
        number = add_run(files.database).number
        assert files.export_records() == 2  # the links, too
        again = TeamRuns(objects, database)
        assert again.rebuild() == ([number], [])
        assert again.find_faults(again.load(other)) == []
        assert [row.version for row in again.index.uploads()] == [1, 2]


def test_what_was_fetched_longest_ago_goes_first(members, monkeypatch):
    home = members[1]
    for number, age in ((1, 300), (2, 200), (3, 100)):
        write_files(home.fetched / str(number), {"outputs/f": "x" * 1000})
        os.utime(home.fetched / str(number), (1e9 - age, 1e9 - age))
    home.config_file.write_text('[team]\ncache = "2KB"\n')
    assert evict(home, {1}) == 1000
    assert sorted(path.name for path in home.fetched.iterdir()) == ["1", "3"]
    assert evict(home, {1}, everything=True) == 1000
    assert [path.name for path in home.fetched.iterdir()] == ["1"]


def test_a_home_of_its_own_fetches_nothing(tmp_path):
    home = Home(tmp_path / "home").create()
    write_team(home, TeamSettings("postgresql://nowhere/x"))
    with StreamFollower(home, 1) as follower:
        follower.bring()
    assert not home.fetched.exists()


# ---- checkpoints -------------------------------------------------------------------------------------------

GLOBS = ("/state/", "*.log")


@pytest.fixture
def run_folder(files, members):
    """The folder of run 1 on the node of its first attempt."""
    folder = members[0].run_folder(add_run(files.database).number)
    write_files(folder / "work", {"state/a": "a1", "state/b": "b1", "other": "no checkpoint"})
    (folder / METRICS_FILE).write_text("one\ntwo\n")
    return folder


def send(files, sender):
    """Send what is new, as a run's supervisor does that sends log and metrics beside it."""
    staged = sender.stage()
    if staged is None:
        return False
    sent = []

    def metrics_are_sent(length):
        sent.append(files.send_streams(sender.run_folder, sender.number, sender.attempt))
        return sent[0].metrics_bytes >= length

    return sender.send(files, staged, metrics_are_sent)


def test_checkpoints_reach_the_next_attempt_on_another_machine(files, members, run_folder):
    sender = CheckpointSender(run_folder, 1, attempt=3, place=1, globs=GLOBS)
    os.utime(run_folder / "work" / "state" / "a", (1000, 1000))
    os.utime(run_folder / "work" / "state" / "b", (2000, 2000))
    assert send(files, sender)
    assert not send(files, sender)  # nothing was written since
    write_files(run_folder / "work", {"state/b": "b2"})
    os.utime(run_folder / "work" / "state" / "b", (2500, 2500))
    assert send(files, sender)
    bring_checkpoint(members[1], 1, attempt=5)
    earlier = members[1].run_folder(1) / "attempts" / "1"
    assert read_files(earlier / "work") == {"state/a": "a1", "state/b": "b2"}
    assert (earlier / METRICS_FILE).read_text() == "one\ntwo\n"
    # By these times it is told which metrics are older than the checkpoint.
    assert max(path.stat().st_mtime for path in (earlier / "work" / "state").iterdir()) == 2500
    bring_checkpoint(members[1], 1, attempt=3)  # there was none before
    assert not (run_folder / "checkpoint").exists()


def test_a_checkpoint_is_one_state_of_all_files(files, members, run_folder, monkeypatch):
    from conjure.runs.artifacts import checkpoints

    copy_chosen = checkpoints.copy_chosen

    def copy_while_written_to(source, *arguments):
        copy_chosen(source, *arguments)
        write_files(run_folder / "work", {"state/b": "half of what comes"})

    sender = CheckpointSender(run_folder, 1, attempt=1, place=1, globs=GLOBS)
    monkeypatch.setattr(checkpoints, "copy_chosen", copy_while_written_to)
    assert not send(files, sender)
    monkeypatch.undo()
    assert send(files, sender)
    bring_checkpoint(members[1], 1, attempt=2)
    earlier = members[1].run_folder(1) / "attempts" / "1"
    assert read_files(earlier / "work")["state/b"] == "half of what comes"


def test_a_checkpoint_that_came_half_way_is_not_there(files, objects, members, run_folder):
    sender = CheckpointSender(run_folder, 1, attempt=1, place=1, globs=GLOBS)
    assert send(files, sender)
    write_files(run_folder / "work", {"state/a": "a2", "state/b": "b2" * 200_000})
    objects.fails_after = len(objects.written) + 1  # one of two files comes there
    with pytest.raises(ObjectsError):
        send(files, sender)
    objects.fails_after = None
    bring_checkpoint(members[1], 1, attempt=2)
    earlier = members[1].run_folder(1) / "attempts" / "1"
    assert read_files(earlier / "work") == {"state/a": "a1", "state/b": "b1"}


def test_a_node_that_has_an_attempt_keeps_what_it_has(files, members, run_folder):
    sender = CheckpointSender(run_folder, 1, attempt=1, place=1, globs=GLOBS)
    assert send(files, sender)
    write_files(run_folder / "attempts" / "1" / "work", {"state/a": "newer than what was sent"})
    bring_checkpoint(members[0], 1, attempt=2)
    assert read_files(run_folder / "attempts" / "1" / "work") == {"state/a": "newer than what was sent"}


def test_nodes_that_must_go_on_from_the_same_state_take_what_was_sent(files, members, run_folder, tmp_path):
    sender = CheckpointSender(run_folder, 1, attempt=1, place=1, globs=GLOBS)
    assert send(files, sender)
    write_files(run_folder / "attempts" / "1" / "work", {"state/a": "newer than what was sent"})
    elsewhere = tmp_path / "part"
    elsewhere.mkdir()
    bring_checkpoint(members[0], 1, attempt=2, only_sent=True)
    bring_checkpoint(members[1], 1, attempt=2, folder=elsewhere, only_sent=True)
    for folder in (run_folder, elsewhere):
        assert read_files(folder / "attempts" / "1" / "work") == {"state/a": "a1", "state/b": "b1"}


def test_the_checkpoint_of_an_active_run_is_not_removed_from_the_store(files, members, run_folder):
    record = add_run(files.database, on="gpu", retry=1, checkpoint=GLOBS)
    files.database.begin_attempt(record.number, record.owner)
    folder = members[0].run_folder(record.number)
    write_files(folder / "work", {"state/a": "a1"})
    assert send(files, CheckpointSender(folder, record.number, attempt=1, place=1, globs=GLOBS))
    files.prune(unused_s=0)
    bring_checkpoint(members[1], record.number, attempt=2)
    earlier = members[1].run_folder(record.number) / "attempts" / "1"
    assert read_files(earlier / "work") == {"state/a": "a1"}
