"""Code from other repositories, over real addresses: paths, file:// and HTTP with a login."""

import base64
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import SnapshotError, UsageError
from conjure.runs.code import mirrors, snapshot
from conjure.runs.code.mirrors import Address
from support.repositories import check_out, commit_all, make_repository, read_files, run_git, write_files


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository with branches main and side, tag v1 on main's first commit."""
    source = tmp_path / "source"
    make_repository(source, {"main.py": "one\n"})
    run_git(source, "tag", "-a", "-m", "first", "v1")
    write_files(source, {"main.py": "two\n"})
    commit_all(source)
    run_git(source, "checkout", "-q", "-b", "side")
    write_files(source, {"side.py": "side\n"})
    commit_all(source)
    run_git(source, "checkout", "-q", "main")
    run_git(tmp_path, "clone", "-q", "--bare", str(source), str(tmp_path / "project.git"))
    return tmp_path / "project.git"


def files_of(home: Home, taken: snapshot.CodeSnapshot) -> dict[str, str]:
    destination = home.root / "out"
    check_out(home, taken.tree, destination)
    return read_files(destination)


@pytest.mark.parametrize(
    ("reference", "branch", "content"),
    [
        (None, "main", {"main.py": "two\n"}),
        ("HEAD", "main", {"main.py": "two\n"}),
        ("main", "main", {"main.py": "two\n"}),
        ("side", "side", {"main.py": "two\n", "side.py": "side\n"}),
        ("refs/heads/side", "side", {"main.py": "two\n", "side.py": "side\n"}),
        ("v1", None, {"main.py": "one\n"}),
    ],
)
def test_reference(
    home: Home, remote: Path, reference: str | None, branch: str | None, content: dict
) -> None:
    taken = snapshot.snapshot_remote(home, 1, f"file://{remote}", reference)
    assert files_of(home, taken) == content
    assert (taken.branch, taken.dirty, taken.subfolder, taken.root_name) == (branch, False, "", "project")
    assert taken.commit == run_git(remote, "rev-parse", f"{reference or 'main'}^{{commit}}")


@pytest.mark.parametrize("length", [8, 40])
def test_commit_by_its_name(home: Home, remote: Path, length: int) -> None:
    commit = run_git(remote, "rev-parse", "main~1")
    taken = snapshot.snapshot_remote(home, 1, str(remote), commit[:length])
    assert (taken.commit, taken.branch) == (commit, None)
    assert files_of(home, taken) == {"main.py": "one\n"}


def test_reference_outside_branches_and_tags(home: Home, remote: Path) -> None:
    run_git(remote, "update-ref", "refs/pull/1/head", "side")
    taken = snapshot.snapshot_remote(home, 1, str(remote), "refs/pull/1/head")
    assert "side.py" in files_of(home, taken)


def test_mirror_follows_the_remote_and_snapshots_outlive_both(
    home: Home, remote: Path, tmp_path: Path
) -> None:
    first = snapshot.snapshot_remote(home, 1, str(remote), "main")
    write_files(tmp_path / "source", {"main.py": "three\n"})
    commit_all(tmp_path / "source")
    run_git(tmp_path / "source", "branch", "-f", "gone", "main")
    # A branch where a folder of branches was, and history rewritten.
    run_git(
        tmp_path / "source", "push", "-q", "--force", str(remote), "main:main", "gone:side/deeper", ":side"
    )
    second = snapshot.snapshot_remote(home, 2, str(remote), "side/deeper")
    remote.rename(remote.with_name("moved"))
    assert files_of(home, second) == {"main.py": "three\n"}
    check_out(home, first.tree, home.root / "first")
    assert read_files(home.root / "first") == {"main.py": "two\n"}


def test_nothing_is_fetched_twice(home: Home, remote: Path) -> None:
    snapshot.snapshot_remote(home, 1, str(remote), "main")
    (mirror,) = home.mirrors.glob("*.git")
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*")}
    snapshot.snapshot_remote(home, 2, str(remote), "main")
    assert {path: path.stat().st_mtime_ns for path in mirror.rglob("*")} == before


def test_mirror_of_a_shallow_clone_grows_with_it(home: Home, tmp_path: Path) -> None:
    make_repository(tmp_path / "source", {"main.py": "one\n"})
    for text in ("two\n", "three\n"):
        write_files(tmp_path / "source", {"main.py": text})
        commit_all(tmp_path / "source")
    source, clone = f"file://{tmp_path}/source", tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", "--depth", "1", source, str(clone))
    taken = snapshot.snapshot_remote(home, 1, str(clone))
    (mirror,) = home.mirrors.glob("*.git")
    assert files_of(home, taken) == {"main.py": "three\n"}
    assert run_git(mirror, "rev-parse", "main") == taken.commit
    run_git(clone, "fetch", "-q", "--unshallow")
    oldest = run_git(clone, "rev-parse", "main~2")
    assert snapshot.snapshot_remote(home, 2, str(clone), oldest[:8]).commit == oldest
    assert run_git(mirror, "rev-parse", "--is-shallow-repository") == "false"


@pytest.mark.parametrize("variable", ["GIT_SSH_COMMAND", "GIT_SSH", "core.sshCommand"])
def test_the_users_ssh_is_called(
    home: Home, remote: Path, tmp_path: Path, monkeypatch, variable: str
) -> None:
    program = tmp_path / "my ssh"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    if variable == "core.sshCommand":
        run_git(tmp_path, "config", "-f", "gitconfig", variable, f"'{program}'")
    else:
        monkeypatch.setenv(variable, str(program) if variable == "GIT_SSH" else f"'{program}'")
    taken = snapshot.snapshot_remote(home, 1, f"ssh://nowhere{remote}", "side")
    assert "side.py" in files_of(home, taken)


class TestRefusals:
    def test_branch_that_is_replaced_meanwhile(
        self, home: Home, remote: Path, tmp_path: Path, monkeypatch
    ) -> None:
        fetch = mirrors._fetch

        def replace_and_fetch(*arguments: object) -> None:
            run_git(tmp_path / "source", "push", "-q", "--force", str(remote), "main~1:main", ":side")
            fetch(*arguments)

        monkeypatch.setattr(mirrors, "_fetch", replace_and_fetch)
        with pytest.raises(SnapshotError, match="it did not send refs/heads/main at "):
            snapshot.snapshot_remote(home, 1, str(remote), "main")

    def test_unknown_reference_names_the_branches(self, home: Home, remote: Path) -> None:
        with pytest.raises(
            UsageError, match=r"has no branch, tag or commit 'nope'; its branches are main, side"
        ):
            snapshot.snapshot_remote(home, 1, str(remote), "nope")
        with pytest.raises(UsageError, match="has no branch, tag or commit 'deadbeef'"):
            snapshot.snapshot_remote(home, 1, str(remote), "deadbeef")

    def test_empty_repository(self, home: Home, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "-q", "--bare", "empty.git")
        with pytest.raises(UsageError, match="has no default branch"):
            snapshot.snapshot_remote(home, 1, str(tmp_path / "empty.git"))

    def test_no_repository(self, home: Home, tmp_path: Path) -> None:
        with pytest.raises(SnapshotError, match=r"cannot be fetched: there is no repository there"):
            snapshot.snapshot_remote(home, 1, f"file://{tmp_path}/nope.git")

    @pytest.mark.parametrize(
        "address", ["ext::sh -c touch% pwned", "nope", "-x", "ftp://host/x", "", "a b", "x" * 300]
    )
    def test_no_address(self, address: str) -> None:
        with pytest.raises(UsageError, match="is not the address of a repository"):
            Address.parse(address)


@pytest.mark.parametrize(
    ("text", "url", "user", "password", "name"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b.git", None, "", "b"),
        ("https://me:p%40ss@host:8443/a/b", "https://host:8443/a/b", "me", "p@ss", "b"),
        ("https://token@host/a/b/", "https://host/a/b/", "token", "", "b"),
        ("https://me:p@s:s@host/a@b", "https://host/a@b", "me", "p@s:s", "a@b"),
        ("https://me@mail.org:p@host/b", "https://host/b", "me@mail.org", "p", "b"),
        ("https://me:pw@[::1]:80/b", "https://[::1]:80/b", "me", "pw", "b"),
        ("https://host:80/a:b", "https://host:80/a:b", None, "", "b"),
        ("ssh://git:se@cret@host/a", "ssh://git@host/a", None, "", "a"),
        ("ssh://git@host/a/b.git", "ssh://git@host/a/b.git", None, "", "b"),
        ("ssh://git:secret@host/a", "ssh://git@host/a", None, "", "a"),
        ("git@host:a/b.git", "git@host:a/b.git", None, "", "b"),
        ("git@host:b.git", "git@host:b.git", None, "", "b"),
        ("file:///x/y.git", "file:///x/y.git", None, "", "y"),
    ],
)
def test_address(text: str, url: str, user: str | None, password: str, name: str) -> None:
    address = Address.parse(text)
    assert (address.url, address.user, address.password, address.name) == (url, user, password, name)


@pytest.mark.parametrize("address", ["https://me:s3/cret@host/x", "ftp://me:s3cret@host/x"])
def test_a_password_in_an_address_that_is_none_is_not_shown(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        Address.parse(address)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "relative", "joined"),
    [
        ("https://host/a/b.git", "../c.git", "https://host/a/c.git"),
        ("https://host/a/b.git", "./c.git", "https://host/a/b.git/c.git"),
        ("git@host:a/b.git", "../c.git", "git@host:a/c.git"),
        ("/x/y.git", "../z.git", "/x/z.git"),
        ("file:///x/y.git", "../z.git", "file:///x/z.git"),
    ],
)
def test_submodule_address(url: str, relative: str, joined: str) -> None:
    assert Address(url).join(relative).url == joined


class TestSubmodules:
    @pytest.fixture
    def parent(self, tmp_path: Path) -> Path:
        make_repository(tmp_path / "leaf", {"leaf.txt": "leaf"})
        make_repository(tmp_path / "lib", {"lib.py": "lib"})
        run_git(tmp_path / "lib", "submodule", "--quiet", "add", "../leaf", "deep/leaf")
        commit_all(tmp_path / "lib")
        make_repository(tmp_path / "parent", {"main.py": "m"})
        run_git(tmp_path / "parent", "submodule", "--quiet", "add", str(tmp_path / "lib"), "vendor/lib")
        commit_all(tmp_path / "parent")
        return tmp_path / "parent"

    def test_followed_to_any_depth(self, home: Home, parent: Path) -> None:
        taken = snapshot.snapshot_remote(home, 1, str(parent))
        files = files_of(home, taken)
        assert (files["vendor/lib/lib.py"], files["vendor/lib/deep/leaf/leaf.txt"]) == ("lib", "leaf")
        assert taken.warnings == ()

    def test_missing_one_is_reported(self, home: Home, parent: Path, tmp_path: Path) -> None:
        (tmp_path / "leaf").rename(tmp_path / "moved")
        taken = snapshot.snapshot_remote(home, 1, str(parent))
        assert files_of(home, taken)["vendor/lib/lib.py"] == "lib"
        (warning,) = taken.warnings
        assert warning.startswith("submodule vendor/lib/deep/leaf at ")
        assert warning.endswith("is not available and stays empty")


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Serves a folder to whoever knows the password."""

    expected = f"Basic {base64.b64encode(b'me:s3cr3t/word').decode()}"

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == self.expected:
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Moved(_Guarded):
    """Says that everything is at another port."""

    port = 0

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:{self.port}{self.path}")
        self.end_headers()


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server on a port, which is given."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True).start()
        yield server.server_port
        server.shutdown()


class TestLogin:
    @pytest.fixture
    def server(self, remote: Path):
        run_git(remote, "update-server-info")
        with serving(functools.partial(_Guarded, directory=str(remote.parent))) as port:
            yield f"127.0.0.1:{port}/{remote.name}"

    def test_login_in_the_address_is_used_and_kept_nowhere(self, home: Home, server: str) -> None:
        taken = snapshot.snapshot_remote(home, 1, f"http://me:s3cr3t%2Fword@{server}", "side")
        assert "side.py" in files_of(home, taken)
        everything = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
        assert b"s3cr3t" not in everything
        assert "s3cr3t" not in repr(taken)

    def test_login_is_sent_to_no_other_server_that_the_address_leads_to(
        self, home: Home, server: str, monkeypatch
    ) -> None:
        port, _, name = server.removeprefix("127.0.0.1:").partition("/")
        monkeypatch.setattr(_Moved, "port", int(port))
        other = rf"leads to http://127\.0\.0\.1:{port}, to which its login is not sent"
        with serving(_Moved) as moved, pytest.raises(SnapshotError, match=other):
            snapshot.snapshot_remote(home, 1, f"http://me:s3cr3t%2Fword@127.0.0.1:{moved}/{name}", "side")

    @pytest.mark.parametrize(
        ("url", "asked", "is_answered"),
        [
            ("https://me:p@host:8443/a", "https://host:8443/a", True),
            ("https://me:p@[::1]:80/a", "https://[::1]:80/a", True),
            ("http://me:p@host/a", "https://host/a", True),  # servers lead from one to the other
            ("https://me:p@host/a", "http://host/a", False),
            ("https://me:p@host/a", "https://other.host/a", False),
        ],
    )
    def test_where_the_login_is_sent(self, tmp_path: Path, url: str, asked: str, is_answered: bool) -> None:
        git = Address.parse(url).git(tmp_path)
        with nullcontext() if is_answered else pytest.raises(SnapshotError, match="could not read Username"):
            assert b"password=p\n" in git("credential", "fill", stdin=f"url={asked}\n\n".encode())

    @pytest.mark.parametrize("login", ["", "me:wrong@"])
    def test_refused_login_asks_nothing_and_shows_nothing(self, home: Home, server: str, login: str) -> None:
        with pytest.raises(SnapshotError, match="it requires a login") as caught:
            snapshot.snapshot_remote(home, 1, f"http://{login}{server}", "side")
        assert "wrong" not in str(caught.value)
