"""Which folders are a run's own; what its command may put in their place is tried in `tests/e2e`."""

import json

import pytest

from conjure.core.dir_fd import Folder
from conjure.errors import ConflictError
from conjure.runs.artifacts.run_folders import RunFolders
from conjure.runs.schema.run_folder import FOLDERS_FILE


@pytest.fixture
def folder(tmp_path):
    """A run's folder, whose disk had another number when its working folder was made."""
    with RunFolders(tmp_path) as folders:
        folders.make_work()
    notes = tmp_path / FOLDERS_FILE
    stored = json.loads(notes.read_text())
    for noted in (stored["run"], *stored["folders"].values()):
        noted[0] += 1
    notes.write_text(json.dumps(stored))
    return tmp_path


def test_folders_are_known_again_after_their_disk_was_mounted_again(folder):
    with RunFolders(folder) as folders:
        assert folders.open_work().id.inode == (folder / "work").stat().st_ino
        assert folders.remove_work()


def test_another_folder_is_still_refused(folder):
    (folder / "work").rename(folder / "moved")
    (folder / "work").mkdir()
    with RunFolders(folder) as folders, pytest.raises(ConflictError, match="replaced by another folder"):
        folders.open_work()


def test_so_is_another_disk_in_its_place(folder, monkeypatch):
    open_in = Folder.open_in

    def on_another_disk(self, name):
        opened = open_in(self, name)
        opened.id = opened.id._replace(device=opened.id.device + 1)
        return opened

    monkeypatch.setattr(Folder, "open_in", on_another_disk)
    with RunFolders(folder) as folders, pytest.raises(ConflictError, match="replaced by another folder"):
        folders.open_work()
