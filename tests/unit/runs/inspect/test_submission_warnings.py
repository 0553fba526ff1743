import subprocess
import sys

import pytest

from conjure.runs.inspect.submission_warnings import submission_warnings
from conjure.runs.schema.spec import CodeChoice, Mount, RunSpec
from support.repositories import commit_all, make_repository


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "code"
    make_repository(folder, {".gitignore": "data/\n*.csv\n", "train.py": ""})
    (folder / "data").mkdir()
    (folder / "data" / "b.txt").write_text("x")
    (tmp_path / "shared").mkdir()
    (folder / "link").symlink_to("../shared")
    return folder


def notes(folder, *command, **options):
    return list(submission_warnings(RunSpec(command=command, folder=folder, **options)))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("python train.py data/b.txt",), "data/b.txt"),
        (("python", "train.py", "--data=data/b.txt"), "data/b.txt"),
        (("python train.py ./new.csv; true",), "new.csv"),
    ],
)
def test_what_git_ignores_is_named(folder, command, name):
    (folder / "new.csv").write_text("x")
    (note,) = notes(folder, *command)
    place = f":{name}" if "/" in name else ""
    assert note == f"git ignores {name}, so it is missing from the run; -m ./{name}{place} adds it"


@pytest.mark.parametrize(
    ("name", "mount"), [("data", "uploads/data"), ("data/images", "uploads/images:data/images")]
)
def test_an_ignored_folder_has_to_be_uploaded(folder, name, mount):
    (folder / "data" / "images").mkdir()
    (note,) = notes(folder, f"ls {name}")
    assert f"`conjure upload {folder}/{name}` and -m {mount} adds it" in note


def test_a_link_that_leads_out_is_named(folder):
    (note,) = notes(folder, "cat link/x link")
    assert note.startswith("link is a link to ../shared, outside this folder, and is broken in the run")
    assert f"`conjure upload {folder}/link` and -m uploads/shared:link" in note


def test_a_link_on_the_way_is_named(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "inner").symlink_to("../../shared")
    (folder.parent / "shared" / "x").write_text("x")
    notes_of_both = notes(folder, "cat sub/inner/x data/b.txt")
    assert [note.split()[0] for note in notes_of_both] == ["sub/inner", "git"]


def test_a_link_to_itself_is_passed_over(folder):
    (folder / "loop").symlink_to("loop")
    assert notes(folder, "cat loop loop/x") == []


def test_names_in_a_submodule_cost_themselves_only(folder):
    make_repository(folder / "lib", {"lib.py": "", "lib.txt": ""})
    commit_all(folder)
    (folder / "lib" / "data").mkdir()
    command = "cat lib/lib.py train.py lib/lib.txt lib/data/x lib data/b.txt new.csv"
    (folder / "new.csv").write_text("x")
    assert [note.split(",")[0] for note in notes(folder, command)] == [
        "git ignores data/b.txt",
        "git ignores new.csv",
    ]


def test_a_name_that_a_pattern_keeps_is_not_ignored(folder):
    (folder / ".gitignore").write_text("*.csv\n!kept.csv\n")
    (folder / "kept.csv").write_text("x")
    assert notes(folder, "cat kept.csv") == []


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (("python train.py",), {}),
        (("cat data/b.txt",), {"code": CodeChoice(none=True)}),
        (("cat data/b.txt",), {"mounts": (Mount("./data/b.txt", "data/b.txt"),)}),
        (("echo it's /etc/passwd ../shared -x",), {}),
        (("x" * 5000,), {}),
    ],
)
def test_where_nothing_is_missing_nothing_is_said(folder, command, options):
    assert notes(folder, *command, **options) == []


@pytest.mark.parametrize(("text", "said"), [("x", True), ("", False)])
def test_standard_input(tmp_path, text, said):
    script = (
        "from pathlib import Path;"
        "from conjure.runs.inspect.submission_warnings import submission_warnings;"
        "from conjure.runs.schema.spec import RunSpec;"
        "print(*submission_warnings(RunSpec(command=('x',), folder=Path.cwd())))"
    )
    (tmp_path / "input").write_text(text)
    with (tmp_path / "input").open() as file:
        done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, stdin=file)
    assert done.stdout.startswith("standard input") == said
