"""What a sandboxed command sees: the layers of its file system, and bubblewrap's command line."""

import socket
from pathlib import Path

import pytest

from conjure.errors import UsageError
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.interpreter import Interpreter
from conjure.runs.executors import sandbox_paths
from conjure.runs.executors.sandbox import (
    Sandbox,
    bwrap_arguments,
    real_folders,
    require_sandbox,
    sandbox_fault,
)
from conjure.runs.executors.sandbox_paths import sandbox_of, variables_inside


def layers(sandbox, folder="/work"):
    """The mounts of the command line that concern a test's own folder, in order."""
    words = bwrap_arguments(sandbox, ["true"], Path(folder), 9)
    root = next(iter(sandbox.hidden))
    pairs = [(words[at - 1], words[at]) for at in range(1, len(words)) if words[at].startswith(str(root))]
    return [(option, path.removeprefix(str(root))) for option, path in pairs if option.startswith("--")]


@pytest.fixture
def root(tmp_path):
    """A hidden folder, with some things in it."""
    for name in ("a/b/c", "env/bin", "own/work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    return tmp_path.resolve()


def test_only_what_is_named_is_shown_in_a_hidden_folder(root):
    sandbox = Sandbox(
        (root,), readable=(root / "a" / "b", root / "file", Path("/usr")), writable=(root / "own",)
    )
    assert layers(sandbox) == [
        ("--tmpfs", ""),
        ("--bind", "/own"),
        ("--ro-bind", "/file"),
        ("--ro-bind", "/a/b"),
    ]
    assert "/usr" not in bwrap_arguments(sandbox, ["true"], root, 9)  # it is visible anyway
    shown = {name: sandbox.shows(root / name) for name in ("a", "a/b/c", "env", "file", "own/work")}
    assert shown == {"a": False, "a/b/c": True, "env": False, "file": True, "own/work": True}
    assert sandbox.shows(Path("/usr"))


def test_what_lies_deeper_lies_on_top(root):
    sandbox = Sandbox(
        (root, root / "a" / "b"),
        sealed=(root / "a" / "b",),
        readable=(root / "a",),
        writable=(root / "a/b/c",),
    )
    assert layers(sandbox) == [
        ("--tmpfs", ""),
        ("--ro-bind", "/a"),
        ("--tmpfs", "/a/b"),
        ("--bind", "/a/b/c"),
        ("--remount-ro", "/a/b"),
    ]


def test_a_hidden_folder_is_never_shown_as_a_whole(root):
    sandbox = Sandbox((root, root / "a"), readable=(root, root / "a", root / "missing"))
    assert layers(sandbox) == [("--tmpfs", ""), ("--tmpfs", "/a")]


def test_what_lies_in_something_shown_is_not_mounted_again(root):
    assert layers(Sandbox((root,), readable=(root / "a", root / "a/b"))) == [
        ("--tmpfs", ""),
        ("--ro-bind", "/a"),
    ]


def test_sockets_are_covered_where_they_can_be_seen(root):
    hidden, shown, own, outside = (root / name for name in ("a/s", "env/s", "own/s", "away/s"))
    sandbox = Sandbox(
        (root / "a", root / "own"),
        readable=(root / "env",),
        writable=(root / "own/work",),
        sockets=(hidden, shown, own, root / "own/work/s", outside, Path("/dev/log")),
    )
    words = bwrap_arguments(sandbox, ["true"], root, 9)
    covered = [words[at + 1] for at, word in enumerate(words) if word == "/dev/null"]
    assert covered == [str(shown), str(outside)]


def test_links_on_the_way_are_made_again_where_they_cannot_be_seen(root):
    (root / "env/bin/python").symlink_to("../../link")
    (root / "link").symlink_to(root / "a/b")
    (root / "own/around").symlink_to("around")
    sandbox = Sandbox((root,), readable=(root / "env", root / "env/bin/python", root / "own/around"))
    words = bwrap_arguments(sandbox, ["true"], root, 9)
    made = {words[at + 2]: words[at + 1] for at, word in enumerate(words) if word == "--symlink"}
    assert made == {str(root / "link"): str(root / "a/b"), str(root / "own/around"): "around"}
    assert ("--ro-bind", "/a/b") in layers(sandbox)
    assert sandbox.shows(root / "env/bin/python")


@pytest.mark.parametrize("network", [False, True])
def test_the_command_line_separates_the_command_from_the_machine(root, network):
    words = bwrap_arguments(Sandbox((root,), network=network), ["echo", "--", "x"], root / "own", 7)
    assert Path(words[0]).name == "bwrap"
    assert {"--unshare-pid", "--unshare-ipc"} < set(words)
    assert ("--unshare-net" in words) is not network
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert words[words.index("--ro-bind") : words.index("--ro-bind") + 3] == ["--ro-bind", "/", "/"]
    ending = ["--chdir", str(root / "own"), "--json-status-fd", "7", "--", "echo", "--", "x"]
    assert words[-len(ending) :] == ending


def test_real_folders_are_told_once_and_never_the_root(root):
    (root / "link").symlink_to("a")
    assert real_folders([root / "a", root / "link", root / "file", root / "missing", "/"]) == (root / "a",)


def test_without_bubblewrap_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sandbox_fault() == "bubblewrap is not installed"
    with pytest.raises(UsageError, match="sandbox: bubblewrap is not installed") as caught:
        require_sandbox()
    assert caught.value.hint == "install the package bubblewrap"


def test_where_bubblewrap_cannot_run_its_own_words_are_given(monkeypatch, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    message = "sandbox: bubblewrap cannot run here: No permissions to create a new namespace"
    with pytest.raises(UsageError, match=message) as caught:
        require_sandbox()
    assert caught.value.hint == "allow user namespaces on this machine"


# ---- which folders they are --------------------------------------------------------------------------------


@pytest.fixture
def interpreter(root):
    prefix = root / "env"
    return Interpreter(
        found=prefix / "bin" / "python",
        executable=prefix / "bin" / "python",
        prefix=prefix,
        base_prefix=prefix,
        version="3.12.1",
        scripts=prefix / "bin",
        site_folders=(prefix / "lib",),
        packages=(),
        search_path=(root / "a" / "b",),
    )


def sandbox_for(home, interpreter, variables, **options):
    environment = Environment("digest", interpreter.executable, interpreter.scripts, {})
    options = {"writable": (), "mounted": (), "network": False} | options
    return sandbox_of(home, environment, interpreter, variables, **options)


def test_homes_are_hidden_and_conjures_own_is_sealed(home, root, interpreter, monkeypatch):
    home.create()
    monkeypatch.setenv("HOME", str(root / "own"))
    sandbox = sandbox_for(home, interpreter, {"HOME": str(root / "a"), "PATH": f"{root}/env/bin::relative"})
    assert {root / "a", root / "own", home.root, Path("/tmp")} <= set(sandbox.hidden)
    assert sandbox.sealed == (home.root,)
    assert root / "a" / "b" in sandbox.readable
    assert Path("relative") not in sandbox.readable
    assert (sandbox.shows(root / "a" / "b"), sandbox.shows(root / "a")) == (True, False)


def test_the_local_home_is_sealed_too_where_the_run_is_a_teams(home, interpreter):
    team = home.named("lab").create()
    home.named("other").create()
    sandbox = sandbox_for(team, interpreter, {}, writable=[team.run_folder(1)])
    assert sandbox.sealed == (home.root, team.root)
    shown = [sandbox.shows(each) for each in (home.database, home.runs, home.named("other").root, team.root)]
    assert shown == [False] * 4


def test_sockets_are_those_that_the_kernel_names(root, home, interpreter, monkeypatch):
    (root / "link").symlink_to(".")
    (root / "other").touch()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(root / "a socket"))
    table = root / "table"
    table.write_text("Num       RefCount Protocol Flags    Type St Inode Path\n")
    with table.open("a") as lines, bound:
        for name in (f"{root}/link/a socket", f"{root}/other", f"{root}/gone", "@abstract", "relative", ""):
            lines.write(f"0000000000000000: 00000002 00000000 00010000 0001 01 1234 {name}".rstrip() + "\n")
        lines.flush()
        monkeypatch.setattr(sandbox_paths, "_UNIX_SOCKETS", table)
        assert sandbox_for(home, interpreter, {}).sockets == (root / "a socket",)


def test_the_name_servers_are_shown_with_the_network_alone(home, interpreter):
    resolver = Path("/etc/resolv.conf")
    assert resolver not in sandbox_for(home, interpreter, {}).readable
    assert resolver in sandbox_for(home, interpreter, {}, network=True).readable


def test_folders_for_temporary_files_are_the_sandboxs_own(interpreter):
    given = {"TMPDIR": "/scratch", "TMP": "x", "TEMP": "y", "PATH": "/bin", "A": "1"}
    assert variables_inside(given, interpreter) == {"PATH": "/bin", "A": "1"}


def test_a_wrapper_of_python_is_passed_by(interpreter, root):
    wrapper = root / "own" / "python"
    wrapper.touch()
    (root / "env/bin/python").touch()
    wrapped = Interpreter(
        **{name: getattr(interpreter, name) for name in Interpreter.__slots__} | {"found": wrapper}
    )
    inside = variables_inside({"PATH": f"/built/bin:{root}/own:/bin"}, wrapped)
    assert inside["PATH"] == f"/built/bin:{root}/env/bin:{root}/own:/bin"
