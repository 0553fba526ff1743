"""Whatever is asked for, nothing outside a run's or upload's files is given."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conjure.core.dir_fd import Folder
from conjure.core.home import Home
from conjure.errors import ConjureError, MountError
from conjure.runs.artifacts.mounts import place_mount
from conjure.runs.artifacts.resource_paths import resolve
from support.homes import add_outputs
from support.repositories import write_files

_PLAIN = (
    "runs uploads best 2 02 jokes jokes@1 @ a sub up etc self side loop passwd .. . ... ~ \\.. %2e%2e ..;"
)
_HOSTILE = ["", "\u2025", "\uff0e\uff0e", "..\u2044", "\uff0f", "\uff12", "\u0662", "a\0", "\n"]
_PIECES = _PLAIN.split() + _HOSTILE
_PATHS = st.lists(st.sampled_from(_PIECES) | st.text(max_size=4), max_size=6).map("/".join)
_LEADING_OUT = {
    "up": "..",
    "etc": "/etc",
    "self": ".",
    "side": "../../../3/work",
    "loop": "loop",
    "passwd": "/etc/passwd",
}
_LINKS = {"best": "runs/2/sub", "a": "uploads/jokes", "sub": "../../etc"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose resources are full of links that lead out."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_files(home.root, {"conjure.db": "secret", "runs/3/work/other": "o"})
    outputs = add_outputs(home, 2, {"a": "a", "sub/a": "b"})
    write_files(home.uploads, {"jokes/1/folder/a": "j"})
    for folder in (outputs, outputs / "sub", home.uploads / "jokes/1/folder"):
        for name, target in _LEADING_OUT.items():
            (folder / name).symlink_to(target)
    return home


@given(text=_PATHS)
@example(text="runs/2/up/..")
@example(text="runs/2/sub/up/a")
@example(text="best/up/up/conjure.db")
@example(text="uploads/jokes/etc/passwd")
@settings(max_examples=150)
def test_resolved_paths_stay_inside(home: Home, text: str) -> None:
    try:
        path = resolve(home, text, _LINKS.get)
    except ConjureError:
        return
    allowed = (home.run_folder(2) / "outputs", home.run_folder(3) / "work", home.uploads / "jokes/1/folder")
    assert any(os.path.realpath(path).startswith(os.path.realpath(root)) for root in allowed)
    assert path.exists()


@given(target=_PATHS)
@example(target="sub/../../x")
@example(target="up/x")
@settings(max_examples=100)
def test_mounts_stay_inside_the_working_folder(
    home: Home, tmp_path_factory: pytest.TempPathFactory, target: str
) -> None:
    root = tmp_path_factory.mktemp("mount")
    work = root / "work"
    (work / "sub").mkdir(parents=True)
    (root / "outside").mkdir()
    for name, leads in {"up": "../outside", "etc": "/nonexistent/conjure", "self": "."}.items():
        (work / name).symlink_to(leads)
    try:
        with Folder.open(work) as opened:
            place_mount(home, home.run_folder(2) / "outputs/a", opened, target, False)
    except MountError:
        pass
    else:
        assert (work / target).is_relative_to(work)
    assert sorted(path.name for path in root.iterdir()) == ["outside", "work"]
    assert not any((root / "outside").iterdir())


@given(
    name=st.binary(min_size=1, max_size=20).filter(
        lambda name: not {0, 47} & set(name) and name not in (b".", b"..")
    )
)
@settings(max_examples=50)
def test_any_file_name_can_be_found(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    text = os.fsdecode(name)
    add_outputs(home, 7, {text: "found"})
    if unicodedata.normalize("NFKC", text) in (".", ".."):  # a look-alike is refused
        with pytest.raises(ConjureError, match="leaves its resource"):
            resolve(home, f"runs/7/{text}", _LINKS.get)
    else:
        assert resolve(home, f"runs/7/{text}", _LINKS.get).read_text() == "found"


def test_hostile_links_in_the_table_of_links_are_refused_too(home: Home) -> None:
    with pytest.raises(ConjureError):
        resolve(home, "sub/passwd", _LINKS.get)
    assert Path("/etc/passwd").exists()
