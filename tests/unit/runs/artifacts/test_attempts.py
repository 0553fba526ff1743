"""Files of attempts: moved aside, handed on, and removed only when the next one has them."""

import errno
import json
import os
import sys
import time
from contextlib import suppress
from itertools import count

import pytest

from conjure.core import dir_fd
from conjure.core.dir_fd import Folder
from conjure.core.trees import partial_name
from conjure.runs.artifacts import attempts
from conjure.runs.artifacts.attempts import (
    archive_attempt,
    bring_back,
    kept_attempt_folders,
    newest_kept_attempt,
    pass_checkpoints,
    remove_passed,
)
from conjure.runs.artifacts.checkpoints import CheckpointSender
from support.mounting import run_mounted
from support.repositories import read_files


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "7"
    (folder / "work").mkdir(parents=True)
    (folder / "log.jsonl").write_text("one\n")
    return folder


def write(folder, name, content, at=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if at is not None:
        os.utime(path, (at, at))


def point(step, at):
    return json.dumps({"name": "loss", "step": step, "value": 1.0, "time": at}) + "\n"


def give(run, earlier, *globs, **options):
    (run / "work").mkdir()
    with Folder.open(run / "work") as work:
        return pass_checkpoints(run, earlier, globs, work, **options)


def test_what_was_moved_aside_stays_there_when_it_is_done_again(run):
    archive_attempt(run, 1)
    (run / "log.jsonl").write_text("two\n")
    archive_attempt(run, 1)
    assert (run / "log.jsonl").read_text() == "two\n"
    assert (run / "attempts" / "1" / "log.jsonl").read_text() == "one\n"
    assert not (run / "work").exists()


def test_later_files_take_the_place_of_earlier_ones(run):
    write(run, "work/a/kept", "old")
    write(run, "work/other", "x")
    archive_attempt(run, 1)
    write(run, "work/a/kept", "new")
    write(run, "outputs/a/saved", "moved")
    archive_attempt(run, 2)
    assert give(run, 2, "a/").files == 3
    assert read_files(run / "work") == {"a/kept": "new", "a/saved": "moved"}
    assert (run / "attempts" / "1" / "work").exists()
    remove_passed(run, 2)
    assert not (run / "attempts" / "1" / "work").exists()
    assert not (run / "attempts" / "2" / "outputs").exists()


def test_what_was_kept_for_an_attempt_that_never_came_is_found(run):
    write(run, "work/kept", "x")
    archive_attempt(run, 1)
    assert kept_attempt_folders(run) == [run / "attempts" / "1" / "work"]
    assert kept_attempt_folders(run.parent / "none") == []


def test_what_the_last_whole_attempt_made_is_brought_back(run):
    write(run, "work/kept", "one")
    write(run, "before.json", "[]")
    archive_attempt(run, 1)
    write(run, "work/kept", "two")
    write(run, "before.json", "[2]")
    archive_attempt(run, 2)
    write(run, "work/half", "an input that the third attempt was given")
    assert newest_kept_attempt(run) == 2
    bring_back(run, 2)
    assert read_files(run / "work") == {"kept": "two"}
    assert (run / "before.json").read_text() == "[2]"
    assert newest_kept_attempt(run) is None
    assert newest_kept_attempt(run.parent / "none") is None


class CutOffError(Exception):
    """The process ends here."""


def cut_off_at(monkeypatch, number):
    """End whatever renames or removes something, before it does so for the `number`-th time."""
    steps = count(1)

    def before(act):
        def step(*arguments, **options):
            if next(steps) == number:
                raise CutOffError
            return act(*arguments, **options)

        return step

    monkeypatch.setattr(os, "rename", before(os.rename))
    monkeypatch.setattr(attempts, "remove_entry", before(attempts.remove_entry))


def was_cut_off(monkeypatch, number, act):
    with monkeypatch.context() as cut, suppress(CutOffError):
        cut_off_at(cut, number)
        act()
        return False
    return True


def first_attempt(run):
    write(run, "work/kept", "one")
    write(run, "outputs/saved", "s")
    write(run, "before.json", "[1]")


def assert_whole(run):
    assert read_files(run / "work") == {"kept": "one"}
    assert read_files(run / "outputs") == {"saved": "s"}
    assert (run / "before.json").read_text() == "[1]"


@pytest.mark.parametrize("step", range(1, 5))
def test_what_was_cut_off_while_it_was_moved_aside_can_be_brought_back(run, monkeypatch, step):
    first_attempt(run)
    was_cut_off(monkeypatch, step, lambda: archive_attempt(run, 1))
    left = newest_kept_attempt(run)
    assert left == (None if step == 1 else 1)
    if left is not None:
        bring_back(run, left)
    assert_whole(run)


@pytest.mark.parametrize("step", range(1, 7))
def test_what_was_cut_off_while_it_was_brought_back_can_still_be(run, monkeypatch, step):
    first_attempt(run)
    archive_attempt(run, 1)
    write(run, "work/input", "of the second attempt, which was killed before it had its checkpoints")
    archive_attempt(run, 2)
    write(run, "work/input", "of the third, whose baseline was not taken yet")
    assert was_cut_off(monkeypatch, step, lambda: bring_back(run, 1)) == (step < 6)
    left = newest_kept_attempt(run)
    assert left == (1 if step < 6 else None)
    if left is not None:
        bring_back(run, left)
    assert_whole(run)


def test_the_working_folder_of_an_attempt_is_not_taken_for_another_ones(run):
    first_attempt(run)
    archive_attempt(run, 1)
    write(run, "before.json", "[2]")  # of the second one, whose working folder somebody removed
    bring_back(run, 1)
    assert_whole(run)


def test_what_was_half_copied_is_not_handed_on(run):
    write(run, f"work/state/{partial_name('step')}", "half of it")
    write(run, "work/state/step", "1")
    archive_attempt(run, 1)
    assert give(run, 1, "state/").files == 1
    assert read_files(run / "work") == {"state/step": "1"}


def test_what_is_handed_on_is_on_disk_before_it_is_removed(run, monkeypatch):
    write(run, "work/state/step", "1")
    archive_attempt(run, 1)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    give(run, 1, "state/")
    assert synced == [(run / "work/state/step").stat().st_ino]


def test_links_lead_nowhere(run, tmp_path):
    write(tmp_path, "secret", "secret")
    (run / "work" / "kept").symlink_to(tmp_path / "secret")
    (run / "work" / "folder").symlink_to(tmp_path)
    archive_attempt(run, 1)
    assert give(run, 1, "**").files == 0
    assert read_files(run / "work") == {}


@pytest.mark.parametrize("place", ["attempts", "attempts/1"])
def test_a_link_in_the_place_of_kept_attempts_is_not_followed(run, tmp_path, place):
    write(tmp_path, "precious/1/work/thesis", "years of work")
    write(tmp_path, "precious/1/before.json", "{}")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(tmp_path / "precious" / place.removeprefix("attempts").strip("/"))
    assert kept_attempt_folders(run) == []
    assert newest_kept_attempt(run) is None


def test_a_folder_of_another_name_is_no_attempts(run):
    write(run, "attempts/1x/work/own", "a command's")
    write(run, "attempts/1x/before.json", "{}")
    assert newest_kept_attempt(run) is None


def test_metrics_count_up_to_the_state_that_is_gone_on_from(run):
    write(run, "work/state", "s", at=100)
    write(run, "work/best", "b", at=200)
    write(run, "work/first", "f", at=50)
    write(run, "metrics.jsonl", point(1, 90.0) + point(2, 150.0) + "torn")
    archive_attempt(run, 1)
    assert give(run, 1, "none", "state", "best", "first").as_of == 100
    assert (run / "metrics.jsonl").read_text() == point(1, 90.0)


def test_a_metric_of_the_moment_before_a_file_was_written_counts(run):
    """Files have the time of the kernel's last tick, which may be before the metric's."""
    moment = 100 + time.clock_getres(5) / 2  # CLOCK_REALTIME_COARSE
    write(run, "work/state", "s", at=100)
    write(run, "metrics.jsonl", point(1, moment) + point(2, 100.2))
    archive_attempt(run, 1)
    give(run, 1, "state")
    assert (run / "metrics.jsonl").read_text() == point(1, moment)


def test_without_checkpoints_everything_begins_anew(run):
    write(run, "metrics.jsonl", point(1, 90.0))
    archive_attempt(run, 1)
    assert give(run, 1).files == 0
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(("saved", "kept"), [("state", {"state": "s", "best": "b"}), ("other", {})])
def test_without_the_files_that_are_needed_first_everything_begins_anew(run, saved, kept):
    write(run, f"work/{saved}", "s", at=100)
    write(run, "work/best", "b", at=100)
    write(run, "metrics.jsonl", point(0, 90.0))
    archive_attempt(run, 1)
    give(run, 1, "state", "best", needs_first=True)
    assert read_files(run / "work") == kept
    assert (run / "metrics.jsonl").exists() == bool(kept)


_PASS_ON = """
import sys
from pathlib import Path
from conjure.core.dir_fd import Folder
from conjure.runs.artifacts.attempts import pass_checkpoints, remove_passed
from conjure.runs.artifacts.checkpoints import CheckpointSender

run, work = Path(sys.argv[1]), Path(sys.argv[1], "work")
(run / "attempts/1/work").rename(work)
staged = CheckpointSender(run, 7, 1, 1, ["**/*.pt"]).stage()
print(sorted(staged.state))
work.rename(run / "attempts/1/work")
work.mkdir()
with Folder.open(work) as opened:
    pass_checkpoints(run, 1, ["**/*.pt"], opened, needs_first=True)
remove_passed(run, 1)
"""


class TestWhatACommandMounted:
    def test_is_not_passed_on_and_keeps_no_attempt_from_beginning(self, run, tmp_path):
        write(tmp_path, "theirs/big.pt", "somebody's")
        write(run, "work/own/a.pt", "a")
        write(run, "before.json", "{}")
        (run / "work/mounted").mkdir()
        archive_attempt(run, 1)
        kept = run / "attempts/1/work"
        ended = run_mounted([(tmp_path / "theirs", kept / "mounted")], sys.executable, "-c", _PASS_ON, run)
        assert (ended.stdout, ended.stderr) == ("['own/a.pt']\n", "")
        assert read_files(run / "work") == {"own/a.pt": "a"}
        assert read_files(run / "checkpoint") == {"own/a.pt": "a"}
        assert not (run / "attempts/1/before.json").exists()
        assert read_files(tmp_path / "theirs") == {"big.pt": "somebody's"}

    def test_and_is_dead_is_passed_over(self, run, monkeypatch):
        write(run, "work/own/a.pt", "a")
        (run / "work/dead").mkdir()
        open_below = dir_fd._open_below

        def open_dead(folder, name):
            if name == "dead":
                raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
            return open_below(folder, name)

        monkeypatch.setattr(dir_fd, "_open_below", open_dead)
        assert CheckpointSender(run, 7, 1, 1, ["**/*.pt"]).stage() is not None
        archive_attempt(run, 1)
        assert give(run, 1, "**/*.pt", needs_first=True).files == 1


def test_a_folder_that_cannot_be_read_is_not_passed_over(run, monkeypatch):
    write(run, "work/own/a.pt", "a")
    archive_attempt(run, 1)

    def refuse(_cursor, name, **_):
        raise OSError(errno.EIO, "the disk is failing", name)

    monkeypatch.setattr(dir_fd.FolderCursor, "down", refuse)
    with pytest.raises(OSError, match="the disk is failing"):
        give(run, 1, "**/*.pt")


def test_what_could_not_be_removed_of_an_attempt_does_not_come_back(run):
    write(run, "work/step-1", "1")
    archive_attempt(run, 1)
    write(run, "work/step-2", "2")
    write(run, "before.json", "{}")
    archive_attempt(run, 2)
    give(run, 2, "step-*")
    assert read_files(run / "work") == {"step-2": "2"}
