"""Resource paths: what they mean, and what they may not reach."""

from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.core.trees import remove_tree
from conjure.errors import ConflictError, NotFoundError, UsageError
from conjure.runs.artifacts.listing import list_contents
from conjure.runs.artifacts.resource_paths import check_name, parse, pin, resolve
from conjure.runs.schema.status import Ending, EndReason, RunStatus
from support.casting import add_run, advance
from support.homes import add_outputs, add_work
from support.repositories import write_files

_LINKS = {"best": "runs/2/models", "texts": "uploads/jokes@1"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    add_outputs(home, 2, {"data.txt": "d", "models/best.bin": "m"})
    add_work(home, 3, {"half.txt": "h"})
    write_files(home.uploads, {"jokes/1/folder/a.csv": "one", "jokes/2/folder/a.csv": "two"})
    write_files(home.uploads, {"b.csv/1/file/b.csv": "b", "named/1/file/c.csv": "c"})
    return home


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("runs/2", "runs/2/outputs"),
        ("runs/2/", "runs/2/outputs"),
        ("runs//2/./models", "runs/2/outputs/models"),
        ("runs/2/data.txt", "runs/2/outputs/data.txt"),
        ("runs/3/half.txt", "runs/3/work/half.txt"),
        ("best/best.bin", "runs/2/outputs/models/best.bin"),
        ("uploads/jokes/a.csv", "uploads/jokes/2/folder/a.csv"),
        ("uploads/jokes@1/a.csv", "uploads/jokes/1/folder/a.csv"),
        ("texts", "uploads/jokes/1/folder"),
        ("uploads/b.csv", "uploads/b.csv/1/file/b.csv"),
        ("uploads/named", "uploads/named/1/file"),
        ("uploads/named/c.csv", "uploads/named/1/file/c.csv"),
    ],
)
def test_resolve(home: Home, text: str, place: str) -> None:
    assert resolve(home, text, _LINKS.get) == home.root / place


def test_local_folder_of_the_same_name_is_never_meant(home: Home, tmp_path: Path, monkeypatch) -> None:
    write_files(tmp_path, {"runs/2/data.txt": "local"})
    monkeypatch.chdir(tmp_path)
    assert resolve(home, "runs/2/data.txt", _LINKS.get).read_text() == "d"
    with pytest.raises(UsageError, match="is a path on this machine, not a resource"):
        resolve(home, "./runs/2/data.txt", _LINKS.get)


def test_files_are_found_while_outputs_are_being_saved(home: Home) -> None:
    write_files(home.run_folder(3), {"outputs/saved.txt": "s"})
    assert resolve(home, "runs/3/saved.txt", _LINKS.get).parent.name == "outputs"
    assert resolve(home, "runs/3/half.txt", _LINKS.get).parent.name == "work"


@pytest.mark.parametrize("ended", [False, True])
def test_a_folder_of_which_only_some_was_saved_is_refused(store, ended: bool) -> None:
    home, number = store.home, add_run(store).number
    advance(store, number, RunStatus.SAVING)
    add_work(home, number, {"state/1": "1", "later/x": "x"})
    write_files(home.run_folder(number), {"outputs/state/0": "0"})
    if ended:
        store.end_run(number, Ending(EndReason.SUPERVISOR_DIED))
    for name in (f"runs/{number}", f"runs/{number}/state"):
        with pytest.raises(ConflictError, match=f"{name} is not complete: run {number}") as caught:
            resolve(home, name, _LINKS.get)
        assert caught.value.fix == f"conjure {'recover' if ended else 'wait'} {number}"
    assert [each.name for each in list_contents(home, store, f"runs/{number}/state").entries] == ["0", "1"]
    assert resolve(home, f"runs/{number}/later", _LINKS.get).parent.name == "work"
    if ended:
        add_outputs(home, number, {"state/1": "1"})
        assert resolve(home, f"runs/{number}/state", _LINKS.get).parent.name == "outputs"


def test_a_folder_that_its_run_removes_meanwhile_has_no_entries(store, monkeypatch) -> None:
    number = add_run(store).number
    advance(store, number, RunStatus.RUNNING)
    add_work(store.home, number, {"checkpoint-1/state": "1"})
    iterdir = Path.iterdir

    def look_too_late(folder: Path):
        if folder.name == "checkpoint-1":
            remove_tree(folder)
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", look_too_late)
    assert list_contents(store.home, store, f"runs/{number}/checkpoint-1").entries == []


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        ("best/best.bin", "runs/2/models/best.bin"),
        ("uploads/jokes/a.csv", "uploads/jokes@2/a.csv"),
        ("texts", "uploads/jokes@1"),
    ],
)
def test_pin(home: Home, text: str, pinned: str) -> None:
    assert pin(home, text, _LINKS.get) == pinned


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a resource: write runs/12, uploads/NAME or a link's name"),
        ("/", "'/' is a path on this machine"),
        ("/runs/2", "is a path on this machine, not a resource"),
        ("~/x", "is a path on this machine, not a resource"),
        ("../runs/2", "is a path on this machine, not a resource"),
        ("runs", "'runs' means all runs; give one, as in runs/12"),
        ("uploads/", "means all uploads; give one, as in uploads/jokes"),
        ("runs/2/../3", "leaves its resource with '..'"),
        ("runs/..", "leaves its resource with '..'"),
        ("runs/2/\u2025/x", "leaves its resource"),
        ("runs/2/\uff0e\uff0e", "leaves its resource"),
        ("runs/02", "is not a run: give its number in digits"),
        ("runs/-1", "is not a run: give its number in digits"),
        ("runs/\uff13", "is not a run: give its number in digits"),
        ("runs/1e3", "is not a run: give its number in digits"),
        ("runs/2\0", "is not a resource"),
        ("uploads/jokes@x", "is not an upload"),
        ("uploads/.hidden", "cannot be the name of an upload"),
    ],
)
def test_refused(home: Home, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(home, text, _LINKS.get)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("runs/31", "runs/31 does not exist; the latest run is 3", "conjure ps"),
        ("runs/2/data.tx", "runs/2/data.tx does not exist; did you mean data.txt?", "conjure ls runs/2"),
        ("runs/2/models/bst.bin", "does not exist; did you mean best.bin?", "conjure ls runs/2"),
        ("uploads/joke", "uploads/joke does not exist; did you mean jokes?", "conjure ls uploads"),
        ("uploads/jokes@7", "uploads/jokes@7 does not exist; jokes has version 1, 2", None),
        (f"runs/2/{'x' * 300}", f"runs/2/{'x' * 300} does not exist", "conjure ls runs/2"),
        ("runs/2/\ud800", "does not exist", "conjure ls runs/2"),
        ("x" * 300, "is neither runs, uploads nor a link", "conjure ls"),
        ("nope/x", "'nope' is neither runs, uploads nor a link", "conjure ls"),
    ],
)
def test_not_found(home: Home, text: str, message: str, fix: str | None) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(home, text, _LINKS.get)
    assert message in str(caught.value)
    assert caught.value.fix == fix


def test_local_file_that_was_probably_meant(home: Home, tmp_path: Path, monkeypatch) -> None:
    write_files(tmp_path, {"data.csv": ""})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="neither runs, uploads nor a link") as caught:
        resolve(home, "data.csv", _LINKS.get)
    assert caught.value.hint == "to make the local one an upload: conjure upload ./data.csv"
    assert caught.value.fix == "conjure ls"


def test_run_without_files(home: Home) -> None:
    home.run_folder(4).mkdir()
    with pytest.raises(NotFoundError, match="runs/4 has no files yet, or they were removed"):
        resolve(home, "runs/4", _LINKS.get)


def test_links_that_lead_out(home: Home) -> None:
    outputs = home.run_folder(2) / "outputs"
    (outputs / "etc").symlink_to("/etc")
    (outputs / "other").symlink_to("../../3/work")
    (outputs / "inside").symlink_to("models")
    (outputs / "gone").symlink_to("nowhere")
    for name in ("etc", "etc/passwd", "other/half.txt"):
        with pytest.raises(UsageError, match="is a link that points outside runs/2"):
            resolve(home, f"runs/2/{name}", _LINKS.get)
    with pytest.raises(NotFoundError, match="is a broken link"):
        resolve(home, "runs/2/gone", _LINKS.get)
    assert resolve(home, "runs/2/inside/best.bin", _LINKS.get).read_text() == "m"


def test_parts(home: Home) -> None:
    parsed = parse("uploads/jokes@2/a/b", _LINKS.get)
    assert (parsed.kind, parsed.name, parsed.version, parsed.parts) == ("uploads", "jokes", 2, ("a", "b"))
    assert (str(parsed), parsed.owner, parsed.number) == ("uploads/jokes@2/a/b", "uploads/jokes@2", None)
    assert parse("best", _LINKS.get).number == 2


@pytest.mark.parametrize(
    "name",
    ["a", "jokes", "data.csv", "my data", "r\u00e9sum\u00e9", "\u0448\u0443\u0442\u043a\u0438", "x_1+2-3"],
)
def test_good_names(name: str) -> None:
    assert check_name("upload", name) == name


def test_names_are_brought_to_one_form() -> None:
    assert check_name("upload", "re\u0301sume\u0301") == "r\u00e9sum\u00e9"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", " x", "x ", "a/b", "a@1", "a:b", "a\nb", "x" * 101, "a\0"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of an upload"):
        check_name("upload", name)
