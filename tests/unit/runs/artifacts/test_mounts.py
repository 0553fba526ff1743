"""Putting resources into a working folder."""

import os
from pathlib import Path

import pytest

from conjure.core.dir_fd import Folder
from conjure.core.home import Home
from conjure.core.trees import Copied
from conjure.errors import MountError
from conjure.runs.artifacts import mounts
from support.homes import add_outputs
from support.repositories import read_files, write_files


def place(home: Home, source: Path, work: Path, target: str, read_only: bool) -> Copied:
    """Put it into the working folder, as it is opened now."""
    with Folder.open(work) as opened:
        return mounts.place_mount(home, source, opened, target, read_only)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    outputs = add_outputs(home, 2, {"data.txt": "d", "model/w.bin": "w", "model/run.sh": "#!"})
    for path in outputs.rglob("*.*"):
        path.chmod(0o555 if path.suffix == ".sh" else 0o444)
    return home


@pytest.fixture
def outputs(home: Home) -> Path:
    return home.run_folder(2) / "outputs"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_files(tmp_path / "work", {"train.py": "t", "data/.gitkeep": ""})
    return tmp_path / "work"


class TestCopies:
    def test_file(self, home: Home, outputs: Path, work: Path) -> None:
        placed = place(home, outputs / "data.txt", work, "in/deep/data.txt", False)
        (work / "in/deep/data.txt").write_text("changed")
        assert (outputs / "data.txt").read_text() == "d"
        assert (placed.files, placed.size_bytes) == (1, 1)

    def test_folder(self, home: Home, outputs: Path, work: Path) -> None:
        place(home, outputs / "model", work, "model", False)
        (work / "model/new").write_text("n")
        (work / "model/w.bin").unlink()
        assert read_files(outputs / "model") == {"run.sh": "#!", "w.bin": "w"}
        assert os.access(work / "model/run.sh", os.X_OK)

    def test_into_a_folder_the_code_has(self, home: Home, outputs: Path, work: Path) -> None:
        place(home, outputs / "model", work, "data", False)
        assert set(read_files(work / "data")) == {".gitkeep", "w.bin", "run.sh"}

    def test_nothing_of_the_code_is_overwritten(self, home: Home, outputs: Path, work: Path) -> None:
        write_files(work, {"model/w.bin": "the code's"})
        with pytest.raises(
            MountError, match=r"cannot mount at model: model/w\.bin already exists in the code"
        ):
            place(home, outputs / "model", work, "model", False)
        with pytest.raises(MountError, match=r"train\.py already exists in the code"):
            place(home, outputs / "data.txt", work, "train.py", False)
        assert read_files(work) == {"train.py": "t", "data/.gitkeep": "", "model/w.bin": "the code's"}

    def test_links_out_of_the_resource_are_left_out(self, home: Home, outputs: Path, work: Path) -> None:
        (outputs / "model/away").symlink_to("/etc/passwd")
        (outputs / "model/near").symlink_to("../data.txt")
        placed = place(home, outputs / "model", work, "model", False)
        assert placed.skipped == ["away is a link that points outside"]
        assert read_files(work / "model")["near"] == "d"


class TestLinks:
    def test_file(self, home: Home, outputs: Path, work: Path) -> None:
        place(home, outputs / "data.txt", work, "data.txt", True)
        assert (work / "data.txt").readlink() == outputs / "data.txt"

    def test_folder_is_made_of_links_and_takes_nothing_new(
        self, home: Home, outputs: Path, work: Path
    ) -> None:
        (outputs / "model/away").symlink_to("/etc")
        placed = place(home, outputs, work, "in", True)
        assert (work / "in/model/w.bin").read_text() == "w"
        assert (work / "in/model/w.bin").is_symlink()
        assert {(work / name).stat().st_mode & 0o777 for name in ("in", "in/model")} == {0o500}
        assert placed.skipped == ["model/away is a link that points outside"]
        assert set(read_files(outputs)) == {"data.txt", "model/w.bin", "model/run.sh", "model/away"}

    def test_needs_a_free_place(self, home: Home, outputs: Path, work: Path) -> None:
        with pytest.raises(MountError, match="data already exists in the code"):
            place(home, outputs / "model", work, "data", True)


class TestPlaces:
    @pytest.mark.parametrize("target", ["", ".", "..", "../x", "a/../../x", "/tmp/x", "a\0b"])
    def test_outside_the_working_folder(self, home: Home, outputs: Path, work: Path, target: str) -> None:
        with pytest.raises(MountError, match="is not a path inside the working folder"):
            place(home, outputs / "data.txt", work, target, False)

    def test_through_a_link_in_the_code(self, home: Home, outputs: Path, work: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (work / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(MountError, match="link is a link in the code"):
            place(home, outputs / "data.txt", work, "link/data.txt", False)
        with pytest.raises(MountError, match="link already exists in the code"):
            place(home, outputs / "model", work, "link", False)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_name_that_is_too_long(self, home: Home, outputs: Path, work: Path) -> None:
        with pytest.raises(MountError, match="File name too long"):
            place(home, outputs / "data.txt", work, "x" * 300, False)

    def test_below_a_file_of_the_code(self, home: Home, outputs: Path, work: Path) -> None:
        with pytest.raises(MountError, match=r"could not be mounted at train\.py/x: "):
            place(home, outputs / "data.txt", work, "train.py/x", False)
