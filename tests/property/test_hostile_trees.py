"""Trees in which folders become links while they are read: nothing outside is moved, written or removed."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.core.dir_fd import Folder
from conjure.core.home import Home
from conjure.core.trees import copy_entry, remove_tree, tree_size_bytes
from conjure.errors import ConjureError
from conjure.runs.artifacts import mounts, outputs
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.artifacts.run_folders import RunFolders
from support.repositories import write_files

# The same names inside and outside, so that a step that follows a link finds what it expects there.
_FOLDERS = ("", "a", "a/b", "c")
_TREE = {f"{folder}/{name}".lstrip("/"): name for folder in _FOLDERS for name in ("f", "g")}
_EVENTS = frozenset(
    f"os.{name}"
    for name in (
        "chmod",
        "link",
        "listdir",
        "mkdir",
        "remove",
        "rename",
        "rmdir",
        "scandir",
        "symlink",
        "utime",
    )
) | {"open"}


@dataclass
class Swap:
    """A folder that is moved away and replaced by a link after so many steps, and perhaps put back later."""

    after: int
    path: str
    back_after: int


@dataclass
class Attack:
    """Carries out swaps between the steps of what is being tested."""

    root: Path
    swaps: list[Swap]
    steps: int = 0
    is_on: bool = False
    moved: list[str] = field(default_factory=list)

    def step(self) -> None:
        if not self.is_on:
            return
        self.is_on = False  # its own steps do not count
        self.steps += 1
        for swap in self.swaps:
            if self.steps == swap.after:
                self._swap(swap.path)
            if self.steps == swap.after + swap.back_after:
                self._put_back(swap.path)
        self.is_on = True

    def _swap(self, path: str) -> None:
        place = self.root / path
        if place.is_dir() and place.resolve() == place:  # not through a link of its own making
            kept = self.root / "moved" / path.replace("/", "-")
            with suppress(OSError):
                place.rename(kept)
                inner = path.partition("/")[2]
                place.symlink_to(self.root / "precious" / inner)
                self.moved.append(path)

    def _put_back(self, path: str) -> None:
        if path in self.moved and (self.root / path).parent.resolve() == (self.root / path).parent:
            self.moved.remove(path)
            with suppress(OSError):
                (self.root / path).unlink()
                (self.root / "moved" / path.replace("/", "-")).rename(self.root / path)


_attack: Attack | None = None


def _between_steps(event: str, _arguments: object) -> None:
    if _attack is not None and event in _EVENTS:
        _attack.step()


sys.addaudithook(_between_steps)


def _state(folder: Path) -> dict[str, object]:
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (facts.st_mode, facts.st_ino, facts.st_nlink, facts.st_mtime_ns, content)
    return found


def _collect(root: Path) -> None:
    with RunFolders(root) as folders:
        collected = outputs.collect(folders.open_work(), outputs.Baseline({}), folders.open_outputs())
        folders.check()
        collected.manifest.save(root / "manifest.json")


def _scan(root: Path) -> None:
    with Folder.open(root / "work") as work:
        outputs.scan(work)


def _copy(root: Path) -> None:
    with Folder.open(root / "outputs") as into:
        copy_entry(root / "work", into, "a", boundary=root / "work", overwrite=True)


def _copy_over(root: Path) -> None:
    with Folder.open(root / "outputs") as into:
        copy_entry(root / "work", into, "", boundary=root / "work", overwrite=True)


def _mount(root: Path) -> None:
    with Folder.open(root / "outputs") as into:
        mounts.place_mount(Home(root / "home"), root / "work", into, "a/b", read_only=False)


def _mount_links(root: Path) -> None:
    with Folder.open(root / "outputs") as into:
        mounts.place_mount(Home(root / "home"), root / "work", into, "a/b", read_only=True)


def _remove(root: Path) -> None:
    remove_tree(root / "work")


def _remove_work(root: Path) -> None:
    with RunFolders(root) as folders:
        folders.remove_work()


def _measure(root: Path) -> None:
    tree_size_bytes(root / "work")
    take_manifest(root / "work")


_ACTS = (
    _collect,
    _scan,
    _copy,
    _copy_over,
    _mount,
    _mount_links,
    _remove,
    _remove_work,
    _measure,
)
_paths = st.sampled_from([f"{top}/{name}".rstrip("/") for top in ("work", "outputs") for name in _FOLDERS])
_there = st.sampled_from([{}, {"a/b/x": "", "c/x": ""}])
_swaps = st.lists(st.builds(Swap, st.integers(1, 40), _paths, st.integers(1, 40)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    act=st.sampled_from(_ACTS), swaps=_swaps, closed=st.sampled_from(["", "work/a", "work/c"]), there=_there
)
def test_nothing_outside_is_touched(
    act: Callable[[Path], None], swaps: list[Swap], closed: str, there: dict[str, str]
) -> None:
    _attempt(act, swaps, closed, there)


@pytest.mark.parametrize("path", ["work/a", "outputs/a"])
@pytest.mark.parametrize("act", [_remove, _copy_over, _collect])
def test_one_swap_before_each_step_in_turn(act: Callable[[Path], None], path: str) -> None:
    for step in range(1, 24):
        _attempt(act, [Swap(step, path, 100)], "", {"a/b/x": "", "c/x": ""})


def _attempt(act: Callable[[Path], None], swaps: list[Swap], closed: str, there: dict[str, str]) -> None:
    global _attack
    with TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        write_files(root / "precious", _TREE)
        (root / "precious/a").chmod(0o750)
        for name in ("outputs", "moved"):
            (root / name).mkdir()
        write_files(root / "work", _TREE)
        write_files(root / "outputs", there)
        (root / "work/link").symlink_to("a/f")
        if closed:
            (root / closed).chmod(0)
        before = _state(root / "precious")
        attack = _attack = Attack(root, swaps)
        try:
            attack.is_on = True
            act(root)
        except (OSError, ConjureError):
            pass
        finally:
            attack.is_on = False
            _attack = None
        assert attack.steps > 0
        assert _state(root / "precious") == before
        for name in ("", *_FOLDERS[1:]):
            for place in (root / "work" / name, root / "moved"):
                if place.is_dir() and not place.is_symlink():
                    place.chmod(0o700)
