"""Whatever happens to a folder between snapshots, each gives back the folder as it was."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conjure.core.home import Home
from conjure.runs.code import snapshot
from support.repositories import check_out, make_repository, run_git

_NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "a b", os.fsdecode(b"\xff"), "-x", "d"])
_CONTENT = st.binary(max_size=3)  # short, so that sizes repeat and only times can tell
_STEP = st.one_of(
    st.tuples(st.just("write"), _NAMES, _CONTENT),
    st.tuples(st.just("link"), _NAMES, st.sampled_from(["a", "../x", "d"])),
    st.tuples(st.just("remove"), _NAMES, st.none()),
    st.tuples(st.just("mode"), _NAMES, st.sampled_from([0o644, 0o755])),
)


def apply(folder: Path, what: str, name: str, value: object) -> None:
    """Do one thing to a folder, clearing out of the way whatever is there."""
    path = folder / name
    if what == "mode":
        if path.is_file() and not path.is_symlink():
            path.chmod(value)
        return
    for place in (*reversed(path.relative_to(folder).parents), path.relative_to(folder)):
        there = folder / place
        if there.is_symlink() or there.is_file():
            there.unlink()
    if path.is_dir():
        shutil.rmtree(path)
    if what != "remove":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value) if what == "write" else path.symlink_to(value)


def content(folder: Path) -> dict[str, object]:
    """Every file and link below a folder: content and whether it can be executed, or target."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and ".git" not in path.parts:
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return {name: value for name, value in found.items() if not name.startswith(".git/")}


@pytest.mark.parametrize("in_repository", [False, True])
@example(rounds=[[("link", "a", "a"), ("link", "d", "a")]])
@given(rounds=st.lists(st.lists(_STEP, max_size=5), min_size=1, max_size=4))
@settings(max_examples=8)
def test_snapshots_are_faithful(
    tmp_path_factory: pytest.TempPathFactory, in_repository: bool, rounds: list[list[tuple]]
) -> None:
    root = tmp_path_factory.mktemp("snapshots")
    home, folder = Home(root / "home"), root / "folder"
    folder.mkdir()
    if in_repository:
        make_repository(folder, {"a": "1", "d/a": "2"})
    for number, steps in enumerate(rounds, start=1):
        for step in steps:
            apply(folder, *step)
        if in_repository and number == 2:
            run_git(folder, "add", "-A")
        taken = snapshot.snapshot(home, folder, number=number)
        check_out(home, taken.tree, root / f"out{number}")
        assert content(root / f"out{number}") == content(folder)
    shutil.rmtree(root)
