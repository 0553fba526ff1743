"""Uploads and their versions."""

import os
import time
import unicodedata
from pathlib import Path

import pytest

from conjure.core import trees
from conjure.core.home import Home
from conjure.core.trees import remove_tree
from conjure.errors import NotFoundError, StoreError, UsageError
from conjure.runs.artifacts import upload_change_detection, uploads
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.resource_paths import resolve
from conjure.runs.artifacts.uploads import is_file_elsewhere, list_uploads, read_upload, remove_upload, upload
from conjure.runs.database.base import Database
from conjure.runs.maintenance.pruning import find_leftovers
from support.repositories import read_files, write_files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_files(tmp_path / "images", {"a.png": "a", "deep/b.png": "bb"})
    return tmp_path / "images"


def content(home: Home, resource: str) -> Path:
    return resolve(home, resource, lambda _: None)


class TestVersions:
    def test_folder(self, home: Home, images: Path) -> None:
        done = upload(home, images)
        kept = done.upload
        assert (kept.name, kept.version, kept.files, kept.size_bytes) == ("images", 1, 2, 3)
        assert (kept.source, kept.resource, done.is_new) == (str(images), "uploads/images", True)
        assert read_files(content(home, "uploads/images")) == {"a.png": "a", "deep/b.png": "bb"}
        assert content(home, "uploads/images/a.png").stat().st_mode & 0o777 == 0o444
        (images / "a.png").write_text("changed")
        assert content(home, "uploads/images/a.png").read_text() == "a"

    def test_same_content_makes_no_new_version(self, home: Home, images: Path) -> None:
        first = upload(home, images)
        again = upload(home, images)
        assert (again.upload, again.is_new) == (first.upload, False)
        assert [path.name for path in (home.uploads / "images").iterdir()] == ["1"]

    def test_other_content_makes_the_next_version_and_keeps_the_first(self, home: Home, images: Path) -> None:
        upload(home, images)
        (images / "a.png").write_text("new")
        assert upload(home, images).upload.version == 2
        assert content(home, "uploads/images/a.png").read_text() == "new"
        assert content(home, "uploads/images@1/a.png").read_text() == "a"
        assert [(each.name, each.version) for each in list_uploads(home)] == [("images", 2)]

    def test_version_taken_by_another_at_the_same_moment(self, home: Home, images: Path, monkeypatch) -> None:
        upload(home, images)
        (images / "a.png").write_text("new")
        answers = iter([1, 1, None, 1])  # compared with 1 twice; nothing seen when numbering; then seen
        monkeypatch.setattr(uploads, "latest_version", lambda *_: next(answers))
        assert upload(home, images).upload.version == 2


@pytest.fixture
def later(monkeypatch) -> None:
    """A clock a minute ahead, as if the files had been there for that long."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60_000_000_000)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Digests that were taken of files whose mark did not tell enough."""
    taken: list[str] = []
    digest = upload_change_detection.sha256_open_file

    def noted(descriptor: int) -> str:
        taken.append(digest(descriptor))
        return taken[-1]

    monkeypatch.setattr(upload_change_detection, "sha256_open_file", noted)
    return taken


@pytest.fixture
def copied(monkeypatch) -> list[str]:
    """Names of files that were copied."""
    names: list[str] = []
    clone = trees.clone_open_file

    def noted(reader: int, folder: int, name: str, *, mode: int) -> int:
        names.append(name)
        return clone(reader, folder, name, mode=mode)

    monkeypatch.setattr(trees, "clone_open_file", noted)
    return names


def damage(stored: Path, modified_s: int | None) -> None:
    """Give a stored file other content of the same size; and a time of modification, or the one it gets."""
    mode = stored.stat().st_mode
    stored.chmod(0o644)
    stored.write_text("?" * stored.stat().st_size)
    stored.chmod(mode)
    os.utime(stored, (time.time() + 60, modified_s or time.time() + 60))


@pytest.mark.usefixtures("later")
class TestAgain:
    def test_what_is_unchanged_is_neither_copied_nor_read(
        self, home: Home, images: Path, copied: list[str], read: list[str]
    ) -> None:
        (images / "near").symlink_to("deep/b.png")
        upload(home, images)
        assert copied == ["a.png", "b.png"]
        again = upload(home, images)
        assert (again.is_new, again.upload.version, again.skipped) == (False, 1, ())
        assert (copied, read) == (["a.png", "b.png"], [])

    def test_only_what_changed_is_copied(self, home: Home, images: Path, copied: list[str]) -> None:
        upload(home, images)
        copied.clear()
        (images / "a.png").write_text("x")
        (images / "new.png").write_text("new")
        assert upload(home, images).upload.version == 2
        assert sorted(copied) == ["a.png", "new.png"]
        assert read_files(content(home, "uploads/images")) == {
            "a.png": "x",
            "deep/b.png": "bb",
            "new.png": "new",
        }
        assert (
            Manifest.load(home.uploads / "images/2/manifest.json").find_faults(
                content(home, "uploads/images")
            )
            == []
        )
        remove_upload(home, "images", 1)
        assert content(home, "uploads/images/deep/b.png").read_text() == "bb"

    def test_a_write_that_restores_size_and_time_is_seen(self, home: Home, images: Path) -> None:
        before = (images / "a.png").stat()
        upload(home, images)
        time.sleep(0.02)  # more than a tick of the filesystem's clock
        (images / "a.png").write_text("z")
        os.utime(images / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert upload(home, images).upload.version == 2
        assert content(home, "uploads/images/a.png").read_text() == "z"

    def test_what_was_only_touched_is_read_once(
        self, home: Home, images: Path, copied: list[str], read: list[str]
    ) -> None:
        upload(home, images)
        copied.clear()
        os.utime(images / "a.png", (1, 1))
        assert [upload(home, images).upload.version for _ in range(2)] == [1, 1]
        assert (copied, len(read)) == ([], 1)

    @pytest.mark.parametrize("change", ["removed", "executable", "link"])
    def test_what_has_no_new_content_is_a_new_version_too(
        self, home: Home, images: Path, change: str
    ) -> None:
        upload(home, images)
        if change == "executable":
            (images / "a.png").chmod(0o755)
        else:
            (images / "a.png").unlink()
        if change == "link":
            (images / "a.png").symlink_to("deep/b.png")
        assert upload(home, images).upload.version == 2
        mode = content(home, "uploads/images@1/a.png").stat().st_mode & 0o777
        assert mode == 0o444

    def test_another_folder_of_the_same_content_is_compared_by_digest(
        self, home: Home, images: Path, tmp_path: Path, copied: list[str], read: list[str]
    ) -> None:
        upload(home, images)
        copied.clear()
        write_files(tmp_path / "elsewhere", {"a.png": "a", "deep/b.png": "bb"})
        assert upload(home, tmp_path / "elsewhere", "images").is_new is False
        assert (copied, len(read)) == ([], 2)

    def test_a_damaged_copy_is_not_passed_on(self, home: Home, images: Path, copied: list[str]) -> None:
        upload(home, images)
        copied.clear()
        kept = content(home, "uploads/images/a.png")
        kept.chmod(0o644)
        (images / "deep/b.png").write_text("new")
        assert upload(home, images).upload.version == 2
        assert sorted(copied) == ["a.png", "b.png"]

    @pytest.mark.parametrize("time_of_other", [None, 1_000_000_000])
    def test_a_stored_file_with_other_content_is_not_passed_on(
        self, home: Home, images: Path, copied: list[str], time_of_other: int | None
    ) -> None:
        upload(home, images)
        copied.clear()
        damage(content(home, "uploads/images/deep/b.png"), time_of_other)
        (images / "a.png").write_text("x")
        assert upload(home, images).upload.version == 2
        assert sorted(copied) == ["a.png", "b.png"]
        assert read_files(content(home, "uploads/images")) == {"a.png": "x", "deep/b.png": "bb"}
        manifest = Manifest.load(home.uploads / "images/2/manifest.json")
        assert manifest.find_faults(content(home, "uploads/images")) == []

    @pytest.mark.parametrize("time_of_other", [None, 1_000_000_000])
    def test_what_is_stored_damaged_is_uploaded_again(
        self, home: Home, images: Path, time_of_other: int | None
    ) -> None:
        upload(home, images)
        damage(content(home, "uploads/images/deep/b.png"), time_of_other)
        again = upload(home, images)
        assert (again.is_new, again.upload.version) == (True, 2)
        assert read_files(content(home, "uploads/images")) == {"a.png": "a", "deep/b.png": "bb"}
        content(home, "uploads/images/a.png").unlink()
        assert upload(home, images).upload.version == 3
        assert upload(home, images).is_new is False

    def test_what_cannot_be_shared_is_copied(self, home: Home, images: Path, copied: list[str], monkeypatch):
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        upload(home, images)
        copied.clear()
        monkeypatch.setattr(os, "link", refuse)
        (images / "a.png").write_text("new")
        assert upload(home, images).upload.version == 2
        assert sorted(copied) == ["a.png", "b.png"]

    @pytest.mark.parametrize("stored", ["", "{}", "[]", '{"format": 1, "source": 2, "files": []}'])
    def test_marks_that_cannot_be_read_are_taken_again(
        self, home: Home, images: Path, read: list[str], stored: str
    ) -> None:
        upload(home, images)
        (home.uploads / "images/1/source.json").write_text(stored)
        assert [upload(home, images).is_new for _ in range(2)] == [False, False]
        assert len(read) == 2


def test_a_file_written_a_moment_ago_is_read_again(home: Home, images: Path, read: list[str]) -> None:
    upload(home, images)  # whatever is written now could get the time that the files have
    assert upload(home, images).is_new is False
    assert len(read) == 2


class TestFiles:
    def test_under_its_own_name_it_is_the_upload(self, home: Home, images: Path) -> None:
        assert upload(home, images / "a.png").upload.resource == "uploads/a.png"
        assert content(home, "uploads/a.png").read_text() == "a"

    def test_under_another_name_it_lies_in_it(self, home: Home, images: Path) -> None:
        upload(home, images / "a.png", "pictures")
        assert content(home, "uploads/pictures/a.png").read_text() == "a"
        assert content(home, "uploads/pictures").is_dir()

    def test_empty_and_executable_ones(self, home: Home, tmp_path: Path) -> None:
        write_files(tmp_path / "tools", {"empty": "", "run.sh": "#!"})
        (tmp_path / "tools/run.sh").chmod(0o755)
        assert upload(home, tmp_path / "tools").upload.files == 2
        assert content(home, "uploads/tools/run.sh").stat().st_mode & 0o777 == 0o555


def test_links(home: Home, images: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"outside/big.bin": "big"})
    (images / "near").symlink_to("deep/b.png")
    (images / "far").symlink_to(tmp_path / "outside/big.bin")
    (images / "folder").symlink_to(tmp_path / "outside")
    (images / "gone").symlink_to("nothing")
    done = upload(home, images)
    kept = read_files(content(home, "uploads/images"))
    assert (kept["near"], kept["far"]) == ("-> deep/b.png", "big")
    assert done.skipped == ("folder is a link that points outside", "gone is a broken link")


def test_removal(home: Home, images: Path) -> None:
    upload(home, images)
    (images / "a.png").write_text("new")
    upload(home, images)
    remove_upload(home, "images", 1)
    assert content(home, "uploads/images/a.png").read_text() == "new"
    with pytest.raises(NotFoundError):
        remove_upload(home, "images", 1)
    remove_upload(home, "images", None)
    assert list_uploads(home) == []
    with pytest.raises(NotFoundError):
        read_upload(home, "images", 2)


@pytest.mark.parametrize("removed", [None, 1])
def test_a_removal_that_is_cut_off_leaves_no_part_of_a_version(
    home: Home, store: Database, images: Path, removed: int | None, monkeypatch
) -> None:
    upload(home, images)

    def remove_some(folder: Path) -> None:
        next(folder.rglob("*.png")).unlink()
        raise OSError("cut off")

    monkeypatch.setattr(uploads, "remove_tree", remove_some)
    with pytest.raises(OSError, match="cut off"):
        remove_upload(home, "images", removed)
    assert list_uploads(home) == []
    with pytest.raises(NotFoundError):
        content(home, "uploads/images@1")
    (left,) = find_leftovers(home, store, now=time.time() + 7200)
    assert left.parent == home.uploads / "images"


@pytest.mark.parametrize("removed", [None, 2])
def test_the_number_of_a_removed_version_is_not_given_again(
    home: Home, images: Path, removed: int | None
) -> None:
    """A record of a run that mounted it would else mean other content."""
    upload(home, images)
    (images / "a.png").write_text("second")
    upload(home, images)
    remove_upload(home, "images", removed)
    (images / "a.png").write_text("third")
    assert upload(home, images).upload.version == 3
    assert content(home, "uploads/images@3/a.png").read_text() == "third"


class TestRefusals:
    def test_missing(self, home: Home, tmp_path: Path) -> None:
        for name in ("nope", "x" * 300):
            with pytest.raises(NotFoundError, match="there is no file or folder"):
                upload(home, tmp_path / name)

    def test_special_file(self, home: Home, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="is not a file or folder"):
            upload(home, tmp_path / "pipe")

    def test_conjures_own_home(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="contains conjure's home folder"):
            upload(Home(tmp_path / "deep/home"), tmp_path, "all")

    def test_name(self, home: Home, images: Path) -> None:
        with pytest.raises(UsageError, match="'a/b' cannot be the name of an upload"):
            upload(home, images, "a/b")

    def test_full_disk_leaves_nothing(self, home: Home, images: Path, monkeypatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "copy_file_range", full)
        with pytest.raises(StoreError, match="could not be uploaded: No space left on device"):
            upload(home, images)
        assert list((home.uploads / "images").iterdir()) == []


def test_a_file_whose_name_has_decomposed_letters_is_the_upload_itself(home: Home, tmp_path: Path) -> None:
    file = tmp_path / unicodedata.normalize("NFD", "Café.txt")  # as macOS writes it
    file.write_text("ours")
    kept = upload(home, file).upload
    assert kept.name == "Café.txt"
    path = resolve(home, "uploads/Café.txt", lambda _: None)
    assert (path.is_file(), path.read_text()) == (True, "ours")
    assert not upload(home, file).is_new


def test_such_a_file_that_is_not_here_is_listed_as_a_file(home: Home, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / unicodedata.normalize("NFD", "Café.txt")
    file.write_text("ours")
    kept = upload(home, file).upload
    monkeypatch.setattr(uploads, "upload_elsewhere", lambda _: object())
    assert is_file_elsewhere(home, kept)


def test_an_upload_that_is_removed_meanwhile_is_not_listed(home: Home, images: Path, monkeypatch) -> None:
    upload(home, images)

    def look_and_lose(home: Home, name: str) -> int:
        remove_tree(home.uploads / name)
        return 1

    monkeypatch.setattr(uploads, "latest_version", look_and_lose)
    assert list_uploads(home) == []
