import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError, spell_in_python
from conjure.runs.artifacts import mount_sources
from conjure.runs.artifacts.mount_sources import identity_of, keep_file, locate, resolve_mounts
from conjure.runs.artifacts.uploads import upload
from conjure.runs.code import snapshot
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.environments import imported_code
from conjure.runs.schema.record import CodeFacts, MountFacts
from conjure.runs.schema.spec import CodeChoice, Mount, RunSpec
from support.homes import add_outputs
from support.repositories import write_files


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


def test_a_local_file_is_kept_by_its_content(home, tmp_path):
    file = tmp_path / "jokes.csv"
    file.write_text("one")
    source = keep_file(home, file)
    assert locate(home, source).read_text() == "one"
    assert locate(home, source).stat().st_mode & 0o222 == 0
    assert keep_file(home, file) == source
    file.write_text("two")
    other = keep_file(home, file)
    assert other != source
    assert locate(home, source).read_text() == "one"
    assert [path.name for path in (home.root / "datasets/files").iterdir() if path.name.startswith(".")] == []


def test_a_link_is_kept_as_the_file_it_leads_to(home, tmp_path):
    (tmp_path / "big.csv").write_text("one")
    (tmp_path / "jokes.csv").symlink_to("big.csv")
    source = keep_file(home, tmp_path / "jokes.csv")
    assert source.endswith("/jokes.csv")
    assert locate(home, source).read_text() == "one"


def test_two_threads_keep_the_same_file_at_once(home, tmp_path):
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(1 << 22))
    with ThreadPoolExecutor(4) as threads:
        sources = list(threads.map(lambda _: keep_file(home, file), range(4)))
    assert len(set(sources)) == 1
    assert locate(home, sources[0]).read_bytes() == file.read_bytes()


def test_what_cannot_be_kept_is_named(home, tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="there is no file"):
        keep_file(home, tmp_path / "nothing")
    with pytest.raises(UsageError, match="upload a folder before mounting it"):
        keep_file(home, tmp_path)
    (tmp_path / "large").write_bytes(b"x" * 2000)
    monkeypatch.setattr(mount_sources, "_LARGEST_FILE_BYTES", 1999)
    with pytest.raises(UsageError, match=r"has 2.0 kB; local files are stored with the run, up to 2.0 kB"):
        keep_file(home, tmp_path / "large")


@pytest.mark.parametrize("name", ["big.bin", "data"])
def test_the_hint_names_the_upload_that_the_command_makes(home, tmp_path, monkeypatch, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "big.bin").write_bytes(b"x" * 2000)
    (tmp_path / "link.csv").symlink_to(name)
    monkeypatch.setattr(mount_sources, "_LARGEST_FILE_BYTES", 1999)
    for given in (name, "link.csv"):
        with pytest.raises(UsageError) as caught:
            keep_file(home, tmp_path / given)
        assert (caught.value.hint or "").endswith(f"mount uploads/{name}")
        assert upload(home, tmp_path / given).upload.resource == f"uploads/{name}"


@pytest.mark.parametrize(
    "source", ["datasets/files/none/x", "datasets/files/../../conjure.db", "datasets/files/"]
)
def test_a_kept_file_leads_nowhere_else(home, source):
    with pytest.raises(NotFoundError):
        locate(home, source)


def test_mounts_are_resolved_and_links_followed(home, tmp_path):
    add_outputs(home, 3, {"a/b.txt": "x"})
    (tmp_path / "own.txt").write_text("own")
    with SqliteDatabase.open(home) as store:
        store.set_link("best", "runs/3/a")
        mounts = [
            Mount("best/b.txt", "b"),
            Mount("runs/3", "c", read_only=True),
            Mount(f"{tmp_path}/own.txt", "own"),
        ]
        resolved = resolve_mounts(home, store, mounts)
        assert [mount.source for mount in resolved[:2]] == ["runs/3/a/b.txt", "runs/3"]
        assert (resolved[0].resource, resolved[0].source_run, resolved[1].read_only) == (
            "best/b.txt",
            3,
            True,
        )
        again = Mount(resolved[2].source, "own")
        assert resolve_mounts(home, store, [again])[0].source == resolved[2].source
        with pytest.raises(NotFoundError):
            resolve_mounts(home, store, [Mount("runs/3/none", "x")])


SPEC = RunSpec(command=("echo :x:",), folder=Path("/a"), params={"x": "1"})
MOUNTS = (MountFacts("x", "x", read_only=False, source="runs/1"),)


@pytest.fixture
def identity(home):
    def of(spec=SPEC, tree="tree", environment="env", mounts=MOUNTS):
        return identity_of(home, spec, CodeFacts(tree), environment, mounts)

    return of


def test_equal_runs_have_equal_identities(identity):
    elsewhere = replace(SPEC, folder=Path("/b"), description="another try", labels=("x",), timeout_s=5.0)
    assert identity() == identity(elsewhere)


def test_an_identity_is_keyed_by_the_home(home, identity, tmp_path):
    other = Home(tmp_path / "other").create()
    assert identity_of(other, SPEC, CodeFacts("tree"), "env", MOUNTS) != identity()
    key = home.root / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600
    before = identity()
    key.write_bytes(b"")  # cut off by a crash
    assert identity() != before
    assert key.stat().st_size == 32


@pytest.mark.parametrize(
    "other",
    [
        {"tree": "other"},
        {"environment": "other"},
        {"mounts": ()},
        {"mounts": (replace(MOUNTS[0], source="runs/2"),)},
        {"mounts": (replace(MOUNTS[0], target="y"),)},
        {"spec": replace(SPEC, command=("echo", ":x:"))},
        {"spec": replace(SPEC, params={"x": "2"})},
        {"spec": replace(SPEC, variables={"A": "1"})},
        {"spec": replace(SPEC, output=("*.txt",))},
        {"spec": replace(SPEC, variables={"API_KEY": "a"})},
    ],
)
def test_whatever_could_change_the_result_changes_the_identity(identity, other):
    assert identity(**other) != identity()


def test_other_secrets_make_another_run(identity):
    one, two = (replace(SPEC, variables={"API_KEY": value}) for value in "ab")
    assert one.stored() == two.stored()
    assert identity(one) != identity(two)


def test_a_local_file_or_folder_of_a_mount_s_name_is_told(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    (tmp_path / "src").mkdir()
    with SqliteDatabase.open(home) as store:
        with pytest.raises(NotFoundError, match=r"the local file is \./a\.csv") as caught:
            resolve_mounts(home, store, [Mount.parse("a.csv:in")])
        assert caught.value.with_option_names(spell_in_python).fix == "mounts='./a.csv'"
        with pytest.raises(UsageError, match="src is a folder; upload a folder before") as caught:
            resolve_mounts(home, store, [Mount.parse("src")])
        assert caught.value.fix == "conjure upload src"


def test_code_that_is_imported_from_elsewhere_counts(home, identity, tmp_path):
    write_files(tmp_path / "code", {"a.py": "", "ignored/own.py": "", ".gitignore": "ignored/"})
    write_files(tmp_path / "mylib", {"mylib.py": "1"})
    spec = replace(SPEC, folder=tmp_path / "code")
    taken = snapshot.snapshot(home, tmp_path / "code", number=1)
    places = [tmp_path / "mylib", tmp_path / "code/ignored", tmp_path / "code"]
    facts = CodeFacts(taken.tree)
    of = {place: identity_of(home, spec, facts, "env", MOUNTS, [place]) for place in places}
    none = identity_of(home, spec, facts, "env", MOUNTS)
    assert [of[place] == none for place in places] == [False, False, True]
    committed = replace(spec, code=CodeChoice(committed=True))  # the folder may differ from that
    assert identity_of(home, committed, facts, "env", MOUNTS, [tmp_path / "code"]) != none
    write_files(tmp_path / "mylib", {"mylib.py": "22"})
    assert identity_of(home, spec, facts, "env", MOUNTS, [tmp_path / "mylib"]) != of[tmp_path / "mylib"]


def test_too_much_imported_code_makes_no_run_equal(home, tmp_path, monkeypatch):
    monkeypatch.setattr(imported_code, "MOST_FILES", 1)
    write_files(tmp_path / "mylib", {"mylib.py": "1"})
    assert identity_of(home, SPEC, CodeFacts("tree"), "env", MOUNTS, [tmp_path / "mylib"]) is None
