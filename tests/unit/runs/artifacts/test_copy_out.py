"""Copying files out, and what may be in the way."""

import os
import stat
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import ConflictError, StoreError, UsageError
from conjure.runs.artifacts.copy_out import plan_retrieval, retrieve
from support.homes import add_outputs, add_work
from support.repositories import read_files, write_files


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    outputs = add_outputs(home, 2, {"a.txt": "a", "deep/b.txt": "b"})
    for path in outputs.rglob("*.txt"):
        path.chmod(0o444)
    (outputs / "link").symlink_to("a.txt")
    return home


def get(home: Home, resource: str, folder: Path, *, overwrite: bool = False) -> dict[str, str]:
    retrieve(plan_retrieval(home, resource, folder, lambda _: None), overwrite=overwrite)
    return read_files(folder)


def test_content_of_a_folder(home: Home, tmp_path: Path) -> None:
    assert get(home, "runs/2", tmp_path / "new/out") == {"a.txt": "a", "deep/b.txt": "b", "link": "-> a.txt"}
    (tmp_path / "new/out/a.txt").write_text("mine")  # it can be written to


@pytest.mark.parametrize(("umask", "file", "program"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_are_those_that_the_umask_leaves(
    home: Home, tmp_path: Path, umask: int, file: int, program: int
) -> None:
    (home.root / "runs/2/outputs/deep/b.txt").chmod(0o555)
    before = os.umask(umask)
    try:
        get(home, "runs/2", tmp_path / "out")
    finally:
        os.umask(before)
    names = ("out", "out/a.txt", "out/deep", "out/deep/b.txt")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names]
    assert modes == [program, file, program, program]


def test_one_file(home: Home, tmp_path: Path) -> None:
    assert get(home, "runs/2/deep/b.txt", tmp_path / "out") == {"b.txt": "b"}


def test_a_link_to_a_file_is_that_file(home: Home, tmp_path: Path) -> None:
    assert get(home, "runs/2/link", tmp_path / "out") == {"link": "a"}


def test_one_file_that_vanishes_is_an_error(home: Home, tmp_path: Path) -> None:
    plan = plan_retrieval(home, "runs/2/a.txt", tmp_path / "out", lambda _: None)
    plan.source.unlink()
    with pytest.raises(StoreError, match=r"^a\.txt could not be copied: a\.txt vanished$"):
        retrieve(plan, overwrite=False)


def test_running_run(home: Home, tmp_path: Path) -> None:
    add_work(home, 3, {"half.txt": "h"})
    assert get(home, "runs/3/half.txt", tmp_path / "out") == {"half.txt": "h"}


class TestInTheWay:
    def test_nothing_is_overwritten_unless_told(self, home: Home, tmp_path: Path) -> None:
        mine = {"a.txt": "mine", "deep/other": "o", "link": "mine"}
        write_files(tmp_path / "out", mine)
        plan = plan_retrieval(home, "runs/2", tmp_path / "out", lambda _: None)
        assert plan.in_the_way == ("a.txt", "link")
        with pytest.raises(ConflictError, match=r"2 files would be overwritten: a\.txt, link"):
            retrieve(plan, overwrite=False)
        assert read_files(tmp_path / "out") == mine
        assert get(home, "runs/2", tmp_path / "out", overwrite=True) == {
            "a.txt": "a",
            "deep/b.txt": "b",
            "deep/other": "o",
            "link": "-> a.txt",
        }

    def test_many_are_summed_up(self, home: Home, tmp_path: Path) -> None:
        names = {f"f{n}": "" for n in range(10)}
        add_outputs(home, 5, names)
        write_files(tmp_path / "out", names)
        plan = plan_retrieval(home, "runs/5", tmp_path / "out", lambda _: None)
        assert plan.describe_conflict() == "f0, f1, f2 and 7 more"

    def test_names_in_the_way_cannot_act_on_a_terminal(self, home: Home, tmp_path: Path) -> None:
        names = {"a\x1b[2J": ""}
        add_outputs(home, 5, names)
        write_files(tmp_path / "out", names)
        plan = plan_retrieval(home, "runs/5", tmp_path / "out", lambda _: None)
        assert plan.describe_conflict() == "a\\x1b[2J"

    def test_a_link_of_mine_is_replaced_not_written_through(self, home: Home, tmp_path: Path) -> None:
        write_files(tmp_path, {"precious": "p", "out/x": ""})
        (tmp_path / "out/a.txt").symlink_to(tmp_path / "precious")
        assert get(home, "runs/2/a.txt", tmp_path / "out", overwrite=True)["a.txt"] == "a"
        assert (tmp_path / "precious").read_text() == "p"

    def test_folder_for_a_file_and_the_other_way_round(self, home: Home, tmp_path: Path) -> None:
        write_files(tmp_path / "one", {"a.txt/x": ""})
        write_files(tmp_path / "two", {"deep": ""})
        with pytest.raises(ConflictError, match=r"a\.txt is a folder, and the resource has a file"):
            get(home, "runs/2", tmp_path / "one", overwrite=True)
        with pytest.raises(ConflictError, match="is a folder; the file"):
            get(home, "runs/2/a.txt", tmp_path / "one", overwrite=True)
        with pytest.raises(ConflictError, match="deep is a file, and the resource has a folder"):
            get(home, "runs/2", tmp_path / "two", overwrite=True)

    def test_destination_is_a_file(self, home: Home, tmp_path: Path) -> None:
        write_files(tmp_path, {"out": ""})
        with pytest.raises(UsageError, match="is a file; name a folder to copy into"):
            get(home, "runs/2", tmp_path / "out")
