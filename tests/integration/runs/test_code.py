"""Snapshots of code, taken from real repositories and folders with the real git."""

import errno
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import SnapshotError, UsageError
from conjure.runs.code import code_store, snapshot
from support.repositories import check_out, commit_all, make_repository, read_files, run_git, write_files


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    make_repository(folder, {"train.py": "one\n", "pkg/__init__.py": "", "examples/go.py": "import pkg\n"})
    return folder


def take(home: Home, folder: Path, **choice: object) -> tuple[snapshot.CodeSnapshot, dict[str, str]]:
    """A snapshot, and its files as checked out."""
    number = len(list(home.root.glob("out*"))) + 1
    taken = snapshot.snapshot(home, folder, number=number, **choice)
    destination = home.root / f"out{number}"
    check_out(home, taken.tree, destination)
    return taken, read_files(destination)


class TestRepository:
    def test_clean_tree_is_the_commit(self, home: Home, project: Path) -> None:
        taken, files = take(home, project)
        assert files == {"train.py": "one\n", "pkg/__init__.py": "", "examples/go.py": "import pkg\n"}
        assert taken.commit == run_git(project, "rev-parse", "HEAD")
        assert taken.tree == run_git(project, "rev-parse", "HEAD^{tree}")
        assert (taken.branch, taken.dirty, taken.subfolder, taken.root_name) == ("main", False, "", "project")
        assert (taken.size_bytes, taken.warnings) == (15, ())

    def test_changes_and_new_files_go_along_ignored_ones_do_not(self, home: Home, project: Path) -> None:
        write_files(
            project,
            {
                "train.py": "two\n",
                "new.py": "new\n",
                ".gitignore": "*.log\n",
                "run.log": "",
                ".conjureignore": "# big\n/data/\n",
                "data/big.bin": "0",
                "sub/data/small.bin": "1",
                "venv/x": "",
                "node_modules/y": "",
                "pkg/__pycache__/z.pyc": "",
            },
        )
        (project / "examples/go.py").unlink()
        taken, files = take(home, project)
        assert taken.dirty
        assert files == {
            ".conjureignore": "# big\n/data/\n",
            ".gitignore": "*.log\n",
            "new.py": "new\n",
            "pkg/__init__.py": "",
            "sub/data/small.bin": "1",
            "train.py": "two\n",
        }

    def test_default_exclusions_spare_what_git_tracks_and_what_is_asked_for(
        self, home: Home, tmp_path: Path
    ) -> None:
        project = tmp_path / "project"
        make_repository(project, {"src/venv/core.py": "tracked"})
        write_files(
            project, {".conjureignore": "!node_modules\n", "node_modules/a.js": "wanted", "venv/b": "no"}
        )
        _, files = take(home, project)
        assert set(files) == {".conjureignore", "src/venv/core.py", "node_modules/a.js"}

    def test_conjureignore_leaves_out_tracked_files_too(self, home: Home, project: Path) -> None:
        write_files(project, {"weights/a.bin": "tracked", "weights/keep.txt": "k"})
        commit_all(project)
        write_files(project, {".conjureignore": "weights/*\n!weights/keep.txt\n"})
        _, files = take(home, project)
        assert [name for name in files if name.startswith("weights")] == ["weights/keep.txt"]

    def test_conjureignore_can_ask_for_an_ignored_file(self, home: Home, project: Path) -> None:
        write_files(
            project,
            {".gitignore": "*.bin\n", ".conjureignore": "!model.bin\n", "model.bin": "m", "x.bin": "x"},
        )
        _, files = take(home, project)
        assert "model.bin" in files
        assert "x.bin" not in files

    def test_conjureignore_is_read_as_git_reads_gitignore(self, home: Home, project: Path) -> None:
        names = ["a.bin", "b.bin", "c.bin ", "d.bin", "e.bin\\"]
        write_files(project, dict.fromkeys(names, "x"))
        rules = b"\xef\xbb\xbfa.bin\r\nb.bin  \nc.bin\\  \n#d.bin\n \t\ne.bin\\\\ \n"
        write_files(project, {".conjureignore": rules})
        _, files = take(home, project)
        assert [name for name in names if name in files] == ["d.bin"]

    def test_conjureignore_that_is_no_text(self, home: Home, project: Path) -> None:
        (project / ".conjureignore").write_text("data/\n", encoding="utf-16")
        with pytest.raises(SnapshotError, match="is not UTF-8 text"):
            snapshot.snapshot(home, project, number=1)
        (project / ".conjureignore").unlink()
        (project / ".conjureignore").symlink_to(".conjureignore")
        with pytest.raises(SnapshotError, match="cannot be read: Too many levels"):
            snapshot.snapshot(home, project, number=1)

    def test_subfolder_is_kept(self, home: Home, project: Path) -> None:
        taken, files = take(home, project / "examples")
        assert (taken.subfolder, taken.root_name) == ("examples", "project")
        assert "pkg/__init__.py" in files

    def test_subfolder_reached_through_a_link(self, home: Home, project: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(project / "examples")
        taken, _ = take(home, tmp_path / "link")
        assert (taken.subfolder, taken.root_name) == ("examples", "project")

    def test_before_the_first_commit(self, home: Home, tmp_path: Path) -> None:
        project = tmp_path / "project"
        project.mkdir()
        run_git(project, "init", "-q", "-b", "trunk")
        write_files(project, {"a": "a"})
        taken, files = take(home, project)
        assert (taken.commit, taken.branch, taken.dirty, files) == (None, "trunk", True, {"a": "a"})

    def test_detached_head_has_no_branch(self, home: Home, project: Path) -> None:
        run_git(project, "checkout", "-q", "--detach")
        assert take(home, project)[0].branch is None

    def test_linked_worktree(self, home: Home, project: Path, tmp_path: Path) -> None:
        run_git(project, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
        write_files(tmp_path / "side", {"side.txt": "s"})
        taken, files = take(home, tmp_path / "side")
        assert (taken.branch, files["side.txt"]) == ("side", "s")

    def test_the_repository_is_not_touched(self, home: Home, project: Path) -> None:
        write_files(project, {"new.py": "n", "train.py": "changed"})
        run_git(project, "add", "train.py")
        os.utime(project / "pkg/__init__.py")  # the index is out of date: git status would like to refresh it

        def state() -> dict[str, tuple[int, int]]:
            facts = {path: path.lstat() for path in (project / ".git").rglob("*")}
            return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in facts.items()}

        before = state()
        take(home, project)
        take(home, project, committed=True)
        assert state() == before

    def test_snapshot_outlives_the_repository(self, home: Home, project: Path) -> None:
        whole = snapshot.snapshot(home, project, number=1)
        old = snapshot.snapshot(home, project, number=2, committed=True)
        shutil.rmtree(project)
        for number, taken in ((1, whole), (2, old)):
            check_out(home, taken.tree, home.root / f"out{number}")
            assert read_files(home.root / f"out{number}")["train.py"] == "one\n"

    def test_repository_without_a_work_tree(self, home: Home, project: Path) -> None:
        taken, files = take(home, project / ".git")
        assert (taken.commit, "HEAD" in files) == (None, True)

    def test_called_from_a_hook(self, home: Home, project: Path, tmp_path: Path, monkeypatch) -> None:
        make_repository(tmp_path / "other", {"other.txt": "o"})
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other/.git/index"))
        assert "train.py" in take(home, project)[1]

    def test_the_users_settings_do_not_change_content(
        self, home: Home, project: Path, tmp_path: Path, monkeypatch
    ) -> None:
        hook = tmp_path / "hooks/post-index-change"
        write_files(tmp_path, {"hooks/post-index-change": f"#!/bin/sh\ntouch {tmp_path}/hooked\n"})
        hook.chmod(0o755)
        (tmp_path / "gitconfig").write_text(
            f"[core]\n\tautocrlf = true\n\thooksPath = {hook.parent}\n\tfsmonitor = {hook}\n"
        )
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        write_files(project, {"dos.txt": b"a\r\nb\r\n", "unix.txt": "a\nb\n"})
        _, files = take(home, project)
        assert (files["dos.txt"], files["unix.txt"]) == ("a\r\nb\r\n", "a\nb\n")
        assert not (tmp_path / "hooked").exists()

    def test_filters_and_line_endings_are_off(self, home: Home, project: Path) -> None:
        write_files(
            project,
            {
                ".gitattributes": "*.txt text eol=crlf ident\n*.up filter=upper\n",
                "a.txt": "a\n$Id$\n",
                "b.up": "b\n",
            },
        )
        run_git(project, "config", "filter.upper.clean", "tr a-z A-Z")
        run_git(project, "config", "filter.upper.smudge", "tr a-z A-Z")
        _, files = take(home, project)
        assert (files["a.txt"], files["b.up"]) == ("a\n$Id$\n", "b\n")

    def test_conflicts_take_the_work_tree(self, home: Home, project: Path) -> None:
        run_git(project, "checkout", "-q", "-b", "other")
        write_files(project, {"train.py": "other\n"})
        commit_all(project)
        run_git(project, "checkout", "-q", "main")
        write_files(project, {"train.py": "main\n"})
        commit_all(project)
        with pytest.raises(subprocess.CalledProcessError):
            run_git(project, "merge", "other")
        _, files = take(home, project)
        assert "<<<<<<<" in files["train.py"]


class TestCommits:
    def test_committed_leaves_changes_out(self, home: Home, project: Path) -> None:
        write_files(project, {"train.py": "two\n", "new.py": "n"})
        taken, files = take(home, project, committed=True)
        assert files["train.py"] == "one\n"
        assert "new.py" not in files
        assert (taken.dirty, taken.branch) == (False, "main")

    def test_commit_of_another_branch_exactly(self, home: Home, project: Path) -> None:
        run_git(project, "checkout", "-q", "-b", "side")
        write_files(project, {"side.py": "s"})
        side = commit_all(project)
        run_git(project, "checkout", "-q", "main")
        write_files(project, {"untracked.py": "u"})
        taken, files = take(home, project, commit="side")
        assert (taken.commit, taken.branch, taken.dirty) == (side, None, False)
        assert set(files) == {"train.py", "pkg/__init__.py", "examples/go.py", "side.py"}

    @pytest.mark.parametrize("commit", ["nope", "--help", "", "HEAD:train.py"])
    def test_unknown_commit(self, home: Home, project: Path, commit: str) -> None:
        with pytest.raises(UsageError, match="there is no commit"):
            snapshot.snapshot(home, project, number=1, commit=commit)

    def test_many_objects_travel_as_a_pack(self, home: Home, project: Path) -> None:
        write_files(project, {f"many/{i}": str(i) for i in range(150)})
        commit_all(project)
        assert len(take(home, project, committed=True)[1]) == 153

    def test_repository_with_other_object_names(self, home: Home, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "-q", "--object-format=sha256", "new")
        write_files(tmp_path / "new", {"a": "a"})
        commit_all(tmp_path / "new")
        assert take(home, tmp_path / "new")[1] == {"a": "a"}
        with pytest.raises(SnapshotError, match="uses SHA-256 object names"):
            snapshot.snapshot(home, tmp_path / "new", number=9, committed=True)

    def test_outside_a_repository(self, home: Home, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="committed needs a git repository"):
            snapshot.snapshot(home, tmp_path, number=1, committed=True)

    def test_without_a_commit(self, home: Home, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "-q")
        with pytest.raises(UsageError, match=r"needs a commit, and .* has none yet"):
            snapshot.snapshot(home, tmp_path, number=1, committed=True)


class TestPlainFolder:
    def test_folder_is_taken_the_same_way(self, home: Home, tmp_path: Path) -> None:
        folder = tmp_path / "plain"
        write_files(
            folder,
            {"a.py": "a", "sub/b.py": "b", ".gitignore": "*.log", ".conjureignore": "sub/c"},
        )
        write_files(folder, {"x.log": "", "sub/c": "c", ".venv/x": "", "m.pyc": ""})
        taken, files = take(home, folder)
        assert set(files) == {"a.py", "sub/b.py", ".gitignore", ".conjureignore"}
        assert (taken.commit, taken.branch, taken.dirty, taken.root_name) == (None, None, False, "plain")

    def test_empty_folder(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        taken, files = take(home, tmp_path / "empty")
        assert (files, taken.size_bytes) == ({}, 0)

    def test_home_inside_the_folder_is_left_out(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "sub" / "home")
        write_files(tmp_path, {"a.py": "a"})
        assert set(take(home, tmp_path)[1]) == {"a.py"}
        assert set(take(home, tmp_path)[1]) == {"a.py"}

    def test_home_whose_path_looks_like_a_pattern_is_left_out(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "a[1]*" / "home")
        write_files(tmp_path, {"a[1]*/a.py": "a"})
        assert set(take(home, tmp_path)[1]) == {"a[1]*/a.py"}
        assert set(take(home, tmp_path)[1]) == {"a[1]*/a.py"}

    def test_folder_inside_the_home_is_no_part_of_a_repository_around_it(self, tmp_path: Path) -> None:
        make_repository(tmp_path, {"outer.py": "o"})
        home = Home(tmp_path / "home")
        write_files(home.root, {"runs/1/work/inner.py": "i"})
        taken, files = take(home, home.root / "runs/1/work")
        assert (set(files), taken.commit) == ({"inner.py"}, None)

    def test_repositories_inside_are_followed(self, home: Home, tmp_path: Path) -> None:
        folder = tmp_path / "plain"
        make_repository(folder / "vendor/lib", {"lib.py": "l", ".gitignore": "*.tmp"})
        write_files(folder, {"vendor/lib/x.tmp": "", "a": "a"})
        assert set(take(home, folder)[1]) == {"a", "vendor/lib/lib.py", "vendor/lib/.gitignore"}


class TestFaithfulness:
    def test_links_executables_and_names(self, home: Home, project: Path) -> None:
        odd = os.fsdecode(b"caf\xe9 \xff")
        write_files(
            project,
            {odd: "latin", "line\nbreak": "n", "-dash": "d", " lead": "l", "g i\\t~1": "g", "run.sh": "#!"},
        )
        (project / "run.sh").chmod(0o755)
        (project / "inner").symlink_to("train.py")
        (project / "outer").symlink_to("/nowhere/at all")
        (project / "dir").symlink_to("pkg")
        taken, _ = take(home, project)
        out = home.root / "out1"
        assert (out / odd).read_text() == "latin"
        for name in ("line\nbreak", "-dash", " lead", "g i\\t~1"):
            assert (out / name).is_file(), name
        assert os.access(out / "run.sh", os.X_OK)
        assert not os.access(out / "train.py", os.X_OK) or os.geteuid() == 0
        assert (out / "train.py").stat().st_mode & 0o111 == 0
        assert [str((out / name).readlink()) for name in ("inner", "outer", "dir")] == [
            "train.py",
            "/nowhere/at all",
            "pkg",
        ]
        assert taken.warnings == ()

    def test_folder_that_became_a_link(self, home: Home, project: Path, tmp_path: Path) -> None:
        take(home, project)
        shutil.move(project / "pkg", tmp_path / "elsewhere")
        (project / "pkg").symlink_to(tmp_path / "elsewhere")
        _, files = take(home, project)
        assert files["pkg"] == f"-> {tmp_path / 'elsewhere'}"

    def test_file_that_became_a_folder(self, home: Home, project: Path) -> None:
        take(home, project)
        (project / "train.py").unlink()
        write_files(project, {"train.py/inner": "i"})
        assert take(home, project)[1]["train.py/inner"] == "i"

    def test_pipes_and_sockets_are_passed_over(self, home: Home, project: Path) -> None:
        os.mkfifo(project / "pipe")
        (project / "train.py").unlink()
        os.mkfifo(project / "train.py")
        assert set(take(home, project)[1]) == {"pkg/__init__.py", "examples/go.py"}

    def test_many_files_are_taken_over_as_a_pack(self, home: Home, project: Path) -> None:
        names = {f"many/{n}.txt": f"{n}\n" for n in range(400)}
        write_files(project, names)
        commit_all(project)
        write_files(project, {"many/7.txt": "changed\n"})
        _, files = take(home, project)
        assert {name: files[name] for name in names} == names | {"many/7.txt": "changed\n"}
        assert len(list(home.code_repository.glob("objects/pack/*.pack"))) == 1
        assert len(list(home.code_repository.glob("objects/??/*"))) < 10

    def test_what_is_left_out_is_not_taken_over(self, home: Home, project: Path) -> None:
        files = {f"many/{n}.txt": f"{n}\n" for n in range(400)}
        write_files(project, files | {"data/in/secret": "a password", "data/in/table": "t", "lib/all/a": "a"})
        commit_all(project)
        write_files(project, {".conjureignore": "data/\n", "many/7.txt": "without what was a secret\n"})
        take(home, project)
        kept = run_git(home.code_repository, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
        names = {line.split()[0] for line in kept}
        for name in ("many/8.txt", "lib/all/a", "lib/all", "lib"):
            assert run_git(project, "rev-parse", f"HEAD:{name}") in names, name
        for name in ("data/in/secret", "data/in/table", "many/7.txt", "data/in", "data", "many", ""):
            assert run_git(project, "rev-parse", f"HEAD:{name}") not in names, name

    def test_many_folders_are_taken_over_too(self, home: Home, project: Path) -> None:
        write_files(project, {f"many/{n}/a.txt": f"{n}\n" for n in range(400)})
        commit_all(project)
        take(home, project)
        assert len(list(home.code_repository.glob("objects/??/*"))) == 1  # the top's tree

    def test_nothing_is_fetched_into_a_partial_clone(self, home: Home, project: Path, tmp_path: Path) -> None:
        write_files(project, {f"many/{n}.txt": f"{n}\n" for n in range(400)} | {"data/big": "big"})
        commit_all(project)
        run_git(project, "config", "uploadpack.allowFilter", "true")
        clone = ("clone", "-q", "--filter=blob:none", "--sparse", f"file://{project}", "clone")
        run_git(tmp_path, *clone)
        run_git(tmp_path / "clone", "sparse-checkout", "set", "many")

        def missing() -> list[str]:
            listed = run_git(tmp_path / "clone", "rev-list", "--objects", "--missing=print", "HEAD")
            return [line for line in listed.splitlines() if line.startswith("?")]

        before = missing()
        assert len(take(home, tmp_path / "clone")[1]) >= 400
        assert missing() == before != []

    def test_objects_that_are_missing(self, home: Home, project: Path) -> None:
        write_files(project, {f"many/{n}.txt": f"{n}\n" for n in range(400)})
        commit_all(project)
        blob = run_git(project, "rev-parse", "HEAD:many/7.txt")
        (project / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
        assert take(home, project)[1]["many/7.txt"] == "7\n"
        with pytest.raises(SnapshotError, match=r"the repository lacks the content of many/7\.txt"):
            snapshot.snapshot(home, project, number=2, committed=True)

    def test_damaged_objects(self, home: Home, project: Path) -> None:
        write_files(project, {"big.bin": os.urandom(200_000)})
        commit_all(project)
        blob = run_git(project, "rev-parse", "HEAD:big.bin")
        file = project / f".git/objects/{blob[:2]}/{blob[2:]}"
        file.chmod(0o644)
        os.truncate(file, 100_000)
        with pytest.raises(SnapshotError, match="`git pack-objects` failed: "):
            snapshot.snapshot(home, project, number=1, committed=True)

    def test_objects_pass_through_in_pieces(self, home: Home, project: Path) -> None:
        write_files(project, {"big.bin": os.urandom(20_000_000)})
        commit_all(project)
        tracemalloc.start()
        try:
            snapshot.snapshot(home, project, number=1, committed=True)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()

    def test_edit_in_the_same_instant_with_the_same_size(self, home: Home, project: Path) -> None:
        for text in ("aaa", "bbb", "ccc"):  # far faster than the seconds git compares
            write_files(project, {"train.py": text})
            assert take(home, project)[1]["train.py"] == text

    def test_file_that_comes_back_and_goes(self, home: Home, project: Path) -> None:
        write_files(project, {"extra": "e"})
        assert "extra" in take(home, project)[1]
        write_files(project, {".conjureignore": "extra"})
        assert "extra" not in take(home, project)[1]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable_file(self, home: Home, project: Path) -> None:
        (project / "train.py").chmod(0)
        with pytest.raises(SnapshotError, match=r"train\.py"):
            snapshot.snapshot(home, project, number=1)

    def test_folder_that_git_cannot_look_into(
        self, home: Home, project: Path, tmp_path: Path, monkeypatch
    ) -> None:
        make_repository(project / "vendor/lib", {"lib.py": "l"})
        git = tmp_path / "bin/git"
        warning = "warning: could not open directory 'secret/': Permission denied"
        # Root may look into every folder.
        write_files(
            git.parent, {"git": f'#!/bin/sh\necho "{warning}" >&2\nexec {shutil.which("git")} "$@"\n'}
        )
        git.chmod(0o755)
        monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
        assert take(home, project)[0].warnings == (
            "secret cannot be read and is left out: Permission denied",
            "vendor/lib/secret cannot be read and is left out: Permission denied",
        )
        write_files(tmp_path / "plain", {"a.py": "a"})
        plain = take(home, tmp_path / "plain")[0]
        assert plain.warnings == ("secret cannot be read and is left out: Permission denied",)

    def test_lfs_pointers_are_reported(self, home: Home, project: Path) -> None:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
        write_files(
            project, {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "model.bin": pointer}
        )
        commit_all(project)
        expected = ("1 file is a Git LFS pointer, not the content (model.bin): `git lfs pull` fetches it",)
        assert take(home, project)[0].warnings == expected
        assert take(home, project, committed=True)[0].warnings == expected

    def test_attributes_that_cannot_be_read_say_nothing(self, home: Home, project: Path, monkeypatch) -> None:
        read = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path.name == ".gitattributes":
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        write_files(project, {".gitattributes": "*.bin filter=lfs"})
        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert snapshot.snapshot(home, project, number=1).warnings == ()


class TestSubmodules:
    @pytest.fixture
    def parent(self, tmp_path: Path, project: Path) -> Path:
        make_repository(tmp_path / "leaf", {"leaf.txt": "leaf"})
        make_repository(tmp_path / "lib", {"lib.py": "lib"})
        run_git(tmp_path / "lib", "submodule", "--quiet", "add", str(tmp_path / "leaf"), "deep/leaf")
        commit_all(tmp_path / "lib")
        run_git(project, "submodule", "--quiet", "add", str(tmp_path / "lib"), "vendor/lib")
        commit_all(project)
        return project

    def test_not_checked_out_is_reported(self, home: Home, parent: Path) -> None:
        taken, files = take(home, parent)
        assert files["vendor/lib/lib.py"] == "lib"
        assert taken.warnings == (
            "submodule vendor/lib/deep/leaf is not checked out and stays empty:"
            " `git submodule update --init` fetches it",
        )
        committed, files = take(home, parent, committed=True)
        assert files["vendor/lib/lib.py"] == "lib"
        assert "vendor/lib/deep/leaf" in committed.warnings[0]

    def test_followed_with_changes_and_without(self, home: Home, parent: Path) -> None:
        run_git(parent, "submodule", "--quiet", "update", "--init", "--recursive")
        write_files(parent / "vendor/lib", {"lib.py": "changed", "new.py": "new"})
        taken, files = take(home, parent)
        assert (files["vendor/lib/lib.py"], files["vendor/lib/new.py"]) == ("changed", "new")
        assert files["vendor/lib/deep/leaf/leaf.txt"] == "leaf"
        assert (taken.dirty, taken.warnings) == (True, ())
        taken, files = take(home, parent, committed=True)
        assert (files["vendor/lib/lib.py"], files["vendor/lib/deep/leaf/leaf.txt"]) == ("lib", "leaf")
        assert "vendor/lib/new.py" not in files
        assert taken.warnings == ()

    def test_one_whose_repository_is_gone_is_a_plain_folder(self, home: Home, parent: Path) -> None:
        shutil.rmtree(parent / ".git/modules")
        write_files(parent, {"vendor/lib/new.py": "new", "vendor/lib/x.pyc": "", ".conjureignore": "/pkg/"})
        taken, files = take(home, parent)
        assert (files["vendor/lib/lib.py"], files["vendor/lib/new.py"]) == ("lib", "new")
        assert {"vendor/lib/.git", "vendor/lib/x.pyc", "pkg/__init__.py"}.isdisjoint(files)
        assert (taken.dirty, taken.warnings) == (
            True,
            ("vendor/lib/.git leads to no git repository; vendor/lib is copied as a plain folder",),
        )

    def test_one_whose_git_folder_is_empty_is_a_plain_folder(self, home: Home, parent: Path) -> None:
        (parent / "vendor/lib/.git").unlink()
        (parent / "vendor/lib/.git").mkdir()
        taken, files = take(home, parent)
        assert files["vendor/lib/lib.py"] == "lib"
        assert "is copied as a plain folder" in taken.warnings[0]

    def test_one_without_a_git_folder_is_a_plain_folder(self, home: Home, parent: Path) -> None:
        (parent / "vendor/lib/.git").unlink()
        taken, files = take(home, parent)
        assert files["vendor/lib/lib.py"] == "lib"
        assert taken.warnings == ("submodule vendor/lib has no .git; vendor/lib is copied as a plain folder",)

    def test_one_that_cannot_be_read_is_named(self, home: Home, parent: Path, monkeypatch) -> None:
        listed = os.scandir

        def refuse(folder: object) -> object:
            if folder == parent / "vendor/lib":
                raise PermissionError(13, "Permission denied")
            return listed(folder)

        (parent / "vendor/lib/.git").unlink()
        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(SnapshotError, match="vendor/lib cannot be read: Permission denied"):
            snapshot.snapshot(home, parent, number=1)

    def test_one_that_git_cannot_read_is_named(self, home: Home, parent: Path) -> None:
        (parent / ".git/modules/vendor/lib/config").write_text("[core")
        with pytest.raises(SnapshotError, match=r"bad config line \d in file .*vendor/lib/config"):
            snapshot.snapshot(home, parent, number=1)

    def test_ignore_lines_reach_into_them(self, home: Home, parent: Path) -> None:
        write_files(
            parent, {".conjureignore": "/vendor/lib/lib.py\n/lib.py\n*.tmp\n", "vendor/lib/x.tmp": ""}
        )
        _, files = take(home, parent)
        assert {name for name in files if name.startswith("vendor")} == {"vendor/lib/.gitmodules"}

    @pytest.mark.parametrize(
        ("rule", "left_out"),
        [
            ("vendor/*/keys/", {"keys/a", "keys/b"}),
            ("/vendor/l?b/keys/a", {"keys/a"}),
            ("vendor/**/b", {"keys/b", "b"}),
            ("**/lib/keys", {"keys/a", "keys/b"}),
            ("**/keys/b", {"keys/b"}),
            ("vendor/[a-k]*/keys", set()),
            ("vendor/*/keys/*\n!vendor/lib/keys/b", {"keys/a"}),
            ("other/*/keys", set()),
            ("/keys", set()),
        ],
    )
    def test_patterns_reach_into_them(self, home: Home, project: Path, rule: str, left_out: set[str]) -> None:
        inner = {"keys/a": "a", "keys/b": "b", "b": "b"}
        make_repository(project / "vendor/lib", inner)
        write_files(project, {".conjureignore": rule})
        _, files = take(home, project)
        assert {name for name in inner if f"vendor/lib/{name}" not in files} == left_out


class TestRefusals:
    def test_too_large_says_what_is_large(self, home: Home, project: Path) -> None:
        for name, size in (
            ("data/train.bin", 900_000_000),
            ("data/test.bin", 200_000_000),
            ("w.bin", 40_000_000),
        ):
            write_files(project, {name: ""})
            os.truncate(project / name, size)  # a hole: no bytes on the disk
        with pytest.raises(SnapshotError) as caught:
            snapshot.snapshot(home, project, number=1)
        assert "1.1 GB, more than 1.0 GB; largest: data/ 1.1 GB, w.bin 40 MB" in str(caught.value)
        assert ".conjureignore" in caught.value.hint
        assert "leave out untracked files with committed" in caught.value.hint
        assert snapshot.snapshot(home, project, number=1, committed=True).size_bytes == 15

    def test_home_folder(self, home: Home, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "me"))
        (tmp_path / "me").mkdir()
        with pytest.raises(SnapshotError, match="this is your home folder"):
            snapshot.snapshot(home, tmp_path / "me", number=1)
        with pytest.raises(SnapshotError, match="which contains your home folder"):
            snapshot.snapshot(home, tmp_path, number=1)
        with pytest.raises(SnapshotError, match="this is /, which contains your home folder"):
            snapshot.snapshot(home, Path("/"), number=1)

    def test_home_folder_as_a_repository(self, home: Home, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "me"))
        make_repository(tmp_path / "me", {"dotfile": "d"})
        write_files(tmp_path / "me/work", {"a.py": "a"})
        with pytest.raises(SnapshotError, match="is your home folder"):
            snapshot.snapshot(home, tmp_path / "me/work", number=1)
        assert set(take(home, tmp_path / "me/work", committed=True)[1]) == {"dotfile"}

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_somebody_elses_repository(self, home: Home, project: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        for path in (project, *project.rglob("*")):
            os.chown(path, 12345, 12345, follow_symlinks=False)
        with pytest.raises(SnapshotError, match="belongs to another user") as caught:
            snapshot.snapshot(home, project / "examples", number=1)
        assert caught.value.fix == f"git config --global --add safe.directory {project}"
        (tmp_path / "gitconfig").write_text(f"[safe]\n\tdirectory = {project}\n")
        assert take(home, project)[1]["train.py"] == "one\n"

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            (".git/config", "[core", "in file .git/config"),
            (
                ".git/config",
                "[core]\nrepositoryformatversion = 1\n[extensions]\nfoo = true\n",
                "unknown repository extension found: foo",
            ),
            (".git/index", "damaged", "index file smaller than expected"),
        ],
    )
    def test_repository_that_git_cannot_read(
        self, home: Home, project: Path, name: str, content: str, reason: str
    ) -> None:
        (project / name).write_text(content)
        with pytest.raises(SnapshotError, match="git cannot list the files of") as caught:
            snapshot.snapshot(home, project / "examples", number=1)
        assert reason in str(caught.value)

    def test_folder_that_is_a_link_to_itself(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(SnapshotError, match="Too many levels of symbolic links"):
            snapshot.snapshot(home, tmp_path / "loop", number=1)

    def test_worktree_whose_repository_was_moved(self, home: Home, project: Path, tmp_path: Path) -> None:
        run_git(project, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
        project.rename(tmp_path / "moved")
        with pytest.raises(SnapshotError, match=r"not a git repository: .*/project/\.git/worktrees/side"):
            snapshot.snapshot(home, tmp_path / "side", number=1)

    def test_endless_ignore_file(self, home: Home, project: Path) -> None:
        (project / ".conjureignore").write_text("x\n" * 500_000)
        with pytest.raises(SnapshotError, match="git could not be started: Argument list too long"):
            snapshot.snapshot(home, project, number=1)

    def test_git_is_missing(self, home: Home, project: Path, monkeypatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(SnapshotError, match="git is not installed"):
            snapshot.snapshot(home, project, number=1)


class TestStore:
    def test_one_reference_per_run(self, home: Home, project: Path) -> None:
        first = snapshot.snapshot(home, project, number=3)
        snapshot.keep_tree(home, 4, first.tree)
        references = run_git(home.code_repository, "for-each-ref", "--format=%(objectname) %(refname)")
        assert references.splitlines() == [f"{first.tree} refs/runs/3", f"{first.tree} refs/runs/4"]

    def test_forgotten_code_goes_with_prune_and_only_that(self, home: Home, project: Path) -> None:
        old = snapshot.snapshot(home, project, number=1)
        write_files(project, {"train.py": "two\n"})
        new = snapshot.snapshot(home, project, number=2)
        snapshot.release_tree(home, 1)
        code_store.prune(home)
        check_out(home, new.tree, home.root / "new")
        with pytest.raises(SnapshotError, match="no longer stored"):
            check_out(home, old.tree, home.root / "old")

    def test_snapshot_after_its_objects_were_lost(self, home: Home, project: Path) -> None:
        snapshot.snapshot(home, project, number=1)
        snapshot.release_tree(home, 1)
        run_git(home.code_repository, "prune", "--expire=now")  # as an outsider would: the kept index stays
        assert take(home, project)[1]["train.py"] == "one\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
    def test_full_disk_leaves_nothing_behind(self, project: Path, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode != 0:
            pytest.skip("mounting is not allowed here")
        try:
            home = Home(disk / "home")
            snapshot.snapshot(home, project, number=1)
            write_files(project, {"big.bin": os.urandom(2_000_000)})
            with pytest.raises(SnapshotError, match=r"could not be recorded: .*No space left on device"):
                snapshot.snapshot(home, project, number=2)
            (project / "big.bin").unlink()
            assert snapshot.snapshot(home, project, number=3).tree  # there is room again
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_many_at_once(self, home: Home, project: Path) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from conjure.core.home import Home\n"
            "from conjure.runs.code.snapshot import snapshot\n"
            "print(snapshot(Home(Path(sys.argv[1])), Path(sys.argv[2]), number=int(sys.argv[3])).tree)"
        )
        command = [sys.executable, "-c", script, str(home.root), str(project)]
        workers = [
            subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(1, 9)
        ]
        trees = {worker.communicate()[0].strip() for worker in workers}
        assert trees == {run_git(project, "rev-parse", "HEAD^{tree}")}
        assert len(run_git(home.code_repository, "for-each-ref").splitlines()) == 8
