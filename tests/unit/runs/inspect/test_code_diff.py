"""How a run's code differs from its commit, from real repositories with the real git."""

import os
import shutil
import tracemalloc
from dataclasses import replace
from hashlib import sha256

import pytest

from conjure.runs.code.snapshot import snapshot
from conjure.runs.inspect.code_diff import LONGEST_BYTES, diff_against_commit
from conjure.runs.schema.record import CodeFacts, RunRecord
from conjure.runs.schema.spec import RunSpec
from support.repositories import commit_all, make_repository, run_git, write_files


@pytest.fixture
def project(tmp_path):
    make_repository(tmp_path / "leaf", {"leaf.txt": "leaf\n"})
    make_repository(tmp_path / "lib", {"lib.py": "lib\n"})
    run_git(tmp_path / "lib", "submodule", "--quiet", "add", str(tmp_path / "leaf"), "deep/leaf")
    commit_all(tmp_path / "lib")
    make_repository(tmp_path / "project", {"train.py": "one\n", "examples/a": "a\n"})
    run_git(tmp_path / "project", "submodule", "--quiet", "add", str(tmp_path / "lib"), "vendor/lib")
    run_git(tmp_path / "project", "submodule", "--quiet", "update", "--init", "--recursive")
    commit_all(tmp_path / "project")
    return tmp_path / "project"


def recorded(home, folder):
    found = snapshot(home, folder, number=1)
    facts = CodeFacts(**{name: getattr(found, name) for name in CodeFacts.__dataclass_fields__})
    return replace(RunRecord(1, RunSpec(command=("true",), folder=folder)), code=facts)


def changed_files(diff):
    return [line.split(" b/")[1] for line in diff.text.splitlines() if line.startswith("diff --git")]


def test_what_was_changed_since_the_commit(home, project):
    write_files(project, {"train.py": "two\n", "new.py": "new\n"})
    diff = diff_against_commit(home, recorded(home, project / "examples"))
    assert (changed_files(diff), diff.left_out, diff.unknown) == (["new.py", "train.py"], (), None)


def test_files_of_submodules_are_compared_with_their_commits(home, project):
    changes = {"train.py": "two\n", "vendor/lib/lib.py": "changed\n", "vendor/lib/deep/leaf/new.txt": "new\n"}
    write_files(project, changes)
    before = sorted(home.root.rglob("*"))
    record = recorded(home, project)
    diff = diff_against_commit(home, record)
    assert (changed_files(diff), diff.left_out) == (sorted(changes), ())
    assert "-lib\n+changed\n" in diff.text
    written = {path for path in set(home.root.rglob("*")) - set(before) if "code.git" not in path.parts}
    assert not written
    assert run_git(home.code_repository, "fsck") == ""


def test_a_submodule_whose_commit_is_gone_is_left_out_and_named(home, project):
    write_files(project, {"train.py": "two\n"})
    record = recorded(home, project)
    shutil.rmtree(project / "vendor/lib")
    diff = diff_against_commit(home, record)
    assert changed_files(diff) == ["train.py"]
    commit = run_git(project, "rev-parse", "HEAD:vendor/lib")[:12]
    assert diff.left_out == (
        f"submodule vendor/lib at {commit} is not here, and is left out of the comparison",
    )


def test_a_submodule_that_is_not_checked_out_does_not_differ(home, project):
    write_files(project, {"train.py": "two\n"})
    run_git(project, "submodule", "--quiet", "deinit", "--force", "--all")
    diff = diff_against_commit(home, recorded(home, project))
    assert (changed_files(diff), diff.left_out) == (["train.py"], ())


def test_files_of_git_lfs_are_left_out_and_named(home, tmp_path):
    content = os.urandom(3000)
    names = [f"{letter}.bin" for letter in "abcd"]
    pointer = (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{sha256(content).hexdigest()}\nsize {len(content)}\n"
    )
    make_repository(tmp_path / "large", dict.fromkeys(names, pointer) | {"train.py": "one\n"})
    write_files(tmp_path / "large", {"a.bin": content, "train.py": "two\n"})
    diff = diff_against_commit(home, recorded(home, tmp_path / "large"))
    assert changed_files(diff) == ["train.py"]
    assert diff.left_out == ("1 file (a.bin) is stored by Git LFS, and left out of the comparison",)
    write_files(tmp_path / "large", dict.fromkeys(names, content))
    diff = diff_against_commit(home, recorded(home, tmp_path / "large"))
    assert diff.left_out == (
        "4 files (a.bin, b.bin, c.bin, …) are stored by Git LFS, and left out of the comparison",
    )


def test_what_is_kept_out_of_runs_is_left_out_and_named(home, project):
    write_files(project, {"data/a.csv": "a\n", "data/b.csv": "b\n", "gone.py": "gone\n"})
    write_files(project, {".conjureignore": "data/\n/vendor/*/lib.py\n"})
    commit_all(project)
    (project / "gone.py").unlink()
    write_files(project, {"train.py": "two\n"})
    diff = diff_against_commit(home, recorded(home, project))
    assert changed_files(diff) == ["gone.py", "train.py"]
    assert diff.left_out == (
        "3 files (data/a.csv, data/b.csv, vendor/lib/lib.py) are kept out of runs by .conjureignore, and left"
        " out of the comparison",
    )


def test_a_commit_that_is_gone(home, project):
    write_files(project, {"train.py": "two\n"})
    record = recorded(home, project)
    shutil.rmtree(project)
    assert diff_against_commit(home, record).unknown.startswith("the files are no longer stored: ")


def test_of_a_long_difference_only_the_beginning_is_read(home, tmp_path):
    make_repository(tmp_path / "long", {"train.py": "one\n"})
    write_files(tmp_path / "long", {"new.txt": "a line of a long text\n" * 500_000})
    record = recorded(home, tmp_path / "long")
    tracemalloc.start()
    try:
        diff = diff_against_commit(home, record)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert (diff.cut, len(diff.text), changed_files(diff)) == (True, LONGEST_BYTES, ["new.txt"])
