"""Ways out of the sandbox, each tried on homes, files and processes that the test itself made."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.runs.host.process import all_processes
from conjure.runs.schema.status import RunStatus
from support.casting import ending_runs, nap, outputs, supervisor_of, wait_for_status, wait_until


@pytest.fixture
def bystander():
    """A process of this user, with something private in its environment."""
    process = subprocess.Popen(["sleep", nap(600)], env={**os.environ, "BYSTANDER": "private value"})
    yield process
    process.kill()
    process.wait()


def command_lines():
    found = []
    for process in all_processes():
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        found.append(line.decode(errors="replace").split("\0"))
    return found


def sleeps(duration):
    return [words for words in command_lines() if words[:2] == ["sleep", duration]]


def test_what_is_written_to_the_home_does_not_arrive(printed, user_home):
    said = printed('echo x > "$HOME/new" && echo x > ~/.ssh/id_test; ls -A "$HOME"')
    assert "new" in said  # the home in the sandbox is a private one
    assert not (user_home / "new").exists()
    assert (user_home / ".ssh" / "id_test").read_text() == "private key\n"


def test_the_home_cannot_be_read(printed, user_home, folder):
    (folder / "link").symlink_to(user_home / ".ssh" / "id_test")
    said = printed(f"cat {user_home}/.ssh/id_test; cat link; ls -A {user_home}; ls {folder}")
    assert "private key" not in said
    assert ".ssh" not in said.replace(".ssh/id_test: No such file", "")


def test_conjures_home_and_other_runs_cannot_be_read(client, printed, home):
    client.run("echo of another run > made.txt").wait(check=True)
    said = printed(
        f"cat {home.root}/runs/1/outputs/made.txt; ls -A {home.root} {home.root}/runs; touch {home.root}/x"
    )
    assert "of another run" not in said
    assert "conjure.db" not in said
    assert "Read-only file system" in said
    assert not (home.root / "x").exists()


def test_the_local_home_cannot_be_read_by_a_run_of_a_teams(client, home):
    client.run("echo of another run > made.txt").wait(check=True)
    with ending_runs(home.named("lab")) as team:
        line = (
            f"cat {home.root}/runs/1/outputs/made.txt; ls -A {home.root}; touch {home.root}/x; echo here > y"
        )
        run = team.run(line, sandbox=True).wait()
    said = "\n".join(run.logs())
    assert "of another run" not in said
    assert "conjure.db" not in said
    assert "Read-only file system" in said
    assert outputs(run) == {"y": "here\n"}


def test_the_system_is_read_only(printed):
    script = "import os\nfor path in '/', '/usr', '/etc', '/var', '/sys', '/proc/sys':\n"
    script += "    print(path, bool(os.statvfs(path).f_flag & os.ST_RDONLY))"
    said = printed(["python", "-c", script])
    assert said.splitlines() == [
        f"{path} True" for path in ("/", "/usr", "/etc", "/var", "/sys", "/proc/sys")
    ]


def test_settings_of_the_kernel_cannot_be_written(printed):
    script = "import os\nfor folder, _, names in os.walk('/proc/sys'):\n    for name in names:\n"
    script += "        assert not os.access(f'{folder}/{name}', os.W_OK), name\nprint('none')"
    assert printed(["python", "-c", script]) == "none"


def test_tmp_is_private(printed, tmp_path):
    (tmp_path / "outside.txt").write_text("from outside")
    said = printed(
        f"cat {tmp_path}/outside.txt; ls -A /tmp /var/tmp /run /dev/shm; echo x > /tmp/in && cat /tmp/in"
    )
    assert "from outside" not in said
    assert said.endswith("x")


def test_a_socket_in_tmp_cannot_be_reached(printed, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        for network in (False, True):
            assert "FileNotFoundError" in printed(["python", "-c", script], network=network)


def test_a_socket_in_a_folder_that_is_shown_cannot_be_reached(printed, user_home, monkeypatch):
    programs = user_home / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    path = programs / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        for network in (False, True):
            said = printed(f'ls {programs}; python -c "{script}"', network=network)
            assert said.startswith("s\n")
            assert "ConnectionRefusedError" in said
            assert path.is_socket()


def test_sockets_of_the_run_itself_can_be_used(printed):
    script = "import socket\nserver = socket.socket(socket.AF_UNIX)\nserver.bind('s')\nserver.listen()\n"
    script += "socket.socket(socket.AF_UNIX).connect('s')\nprint('connected')"
    assert printed(["python", "-c", script]) == "connected"


def test_other_processes_can_be_neither_seen_nor_signalled(printed, bystander):
    script = f"import os, signal\nos.kill({bystander.pid}, signal.SIGKILL)"
    assert "ProcessLookupError" in printed(["python", "-c", script])
    assert bystander.poll() is None
    assert str(bystander.pid) not in printed("ls /proc").split()


def test_the_environment_of_other_processes_cannot_be_read(printed, bystander):
    assert "private value" not in printed("cat /proc/[0-9]*/environ | tr '\\0' '\\n'")


def test_no_privileges_are_left_and_none_can_be_gained(printed):
    said = printed("grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs)' /proc/self/status").split()
    facts = dict(zip(said[::2], said[1::2], strict=True))
    assert facts.pop("NoNewPrivs:") == "1"  # so setuid programs gain nothing
    assert {int(value, 16) for value in facts.values()} == {0}


def test_nothing_can_be_mounted(printed, user_home):
    commands = [
        "mkdir here; mount -t tmpfs none here && echo escaped",
        "mount -o remount,rw,bind / && echo escaped",
        "umount $HOME && echo escaped",
        "unshare --user --map-root-user --mount sh -c 'mount -o remount,rw,bind / && echo escaped'",
        f"unshare --user --map-root-user --mount sh -c 'umount {user_home} && echo escaped'",
    ]
    assert "escaped" not in printed("; ".join(commands)).split()


def test_the_network_is_reached_only_with_leave(printed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        script = f"import socket; socket.create_connection({address!r}, 5); print('reached')"
        assert "reached" not in printed(["python", "-c", script]).split()
        assert "reached" in printed(["python", "-c", script], network=True).split()


def test_the_loopback_of_the_sandbox_works(printed):
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    script += "socket.create_connection(s.getsockname(), 5); print('reached')"
    assert printed(["python", "-c", script]) == "reached"


def test_no_descendant_outlives_the_run(client):
    duration = nap(611)
    run = client.run(f"env -i setsid sleep {duration} & sleep 0", sandbox=True).wait()
    assert run.status is RunStatus.COMPLETE
    assert sleeps(duration) == []


def test_no_descendant_outlives_a_killed_supervisor(client):
    duration = nap(612)
    run = client.run(f"env -i setsid sleep {duration} & sleep {duration}", sandbox=True)
    wait_until(lambda: len(sleeps(duration)) == 2, "both are running")
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    wait_for_status(run, RunStatus.INTERRUPTED)
    wait_until(lambda: sleeps(duration) == [], "both have ended")


def test_the_environment_cannot_be_changed(printed):
    script = f"import os; print(os.statvfs({sys.prefix!r}).f_flag & os.ST_RDONLY)"
    assert printed(["python", "-c", script]) == "1"


def test_no_code_of_the_folder_is_carried_out_before_the_sandbox_is_made(printed, folder, tmp_path):
    for name in ("json", "random", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'escaped')!r}, 'w')\n")
    printed("true", env={"PYTHONPATH": "."})
    assert not (tmp_path / "escaped").exists()
