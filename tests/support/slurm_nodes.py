"""A real Slurm cluster for tests: a controller and two nodes on this machine, gone with the tests.

Main entry: `SlurmNodes`. Invariant: it ends the processes that it started and no others: another cluster
on the machine is left alone.
"""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from conjure.core.home import HOME_VARIABLE, Home
from conjure.python_api import Run
from conjure.runs.host.process import Process, descendants, with_variables
from support.casting import supervisor_of
from support.ports import free_ports

_PATIENCE_S = 60.0
_CONF = "SLURM_CONF"
# What cannot be had here is left out: accounting, groups of the kernel's, mail, libraries for MPI.
_CONFIGURATION = """\
ClusterName=conjure
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=15
MessageTimeout=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=a NodeHostname={host} NodeAddr=127.0.0.1 Port={port_a} CPUs=1 RealMemory=2000
NodeName=b NodeHostname={host} NodeAddr=127.0.0.1 Port={port_b} CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES
PartitionName=small Nodes=a
"""


class SlurmNode:
    """A node's daemon, and the home of the account that jobs run as there."""

    def __init__(self, name: str, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.home = Home(home)
        self.process = process


class SlurmNodes:
    """A cluster; the context manager starts and ends it.

    Attributes:
        heartbeat_s: Seconds between the heartbeats of runs there, for who sets up its homes.
    """

    token = "hunter2-of-the-cluster"  # in the account's variables on this machine

    def __init__(self, folder: Path, variables: Mapping[str, str], heartbeat_s: float) -> None:
        self.heartbeat_s = heartbeat_s
        self._folder = folder
        self._variables = variables
        self._conf = folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._homes = 0

    @classmethod
    @contextmanager
    def running(cls, variables: Mapping[str, str], heartbeat_s: float) -> Iterator["SlurmNodes"]:
        """A cluster while the block lasts, which Slurm's programs on this machine are set up for.

        Args:
            variables: What the account has that jobs run as.
            heartbeat_s: Seconds between the heartbeats of runs there.
        """
        assert shutil.which("slurmctld", path=_path()), (
            "these tests need Slurm: apt-get install slurmctld slurmd slurm-client munge"
        )
        folder = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))  # sockets need a short path
        nodes = cls(folder, variables, heartbeat_s)
        before = os.environ.get(_CONF)
        os.environ[_CONF] = str(nodes._conf)
        try:
            nodes._start()
            yield nodes
        finally:
            nodes._end()
            os.environ.pop(_CONF)
            if before is not None:
                os.environ[_CONF] = before
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        port, port_a, port_b = free_ports(3)
        places = {"port": port, "port_a": port_a, "port_b": port_b, "folder": self._folder}
        host, user = socket.gethostname().partition(".")[0], os.getuid()
        self._conf.write_text(_CONFIGURATION.format(host=host, user=user, **places))
        (self._folder / "gres.conf").write_text("NodeName=b Name=gpu File=/dev/null,/dev/zero\n")
        for each in ("state", "spool-a", "spool-b"):
            (self._folder / each).mkdir()
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        names = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        places = [f"--{option}={self._folder}/munge.{name}" for option, name in names.items()]
        self._daemon("munged", "--force", "--foreground", *places)
        _wait(lambda: (self._folder / "munge.socket").exists(), self._log)
        self.start_controller()
        self.nodes = [self._start_node("a"), self._start_node("b")]
        self.wait_for_nodes(2)

    def start_controller(self) -> None:
        """Start it, the first time or again; nothing waits until it answers."""
        self._controller = self._daemon("slurmctld", "-D", "-f", str(self._conf))

    def end_controller(self) -> None:
        """SIGTERM to it, for it writes down every five seconds only which jobs there are."""
        self._controller.terminate()
        self._controller.wait()

    @property
    def worker(self) -> SlurmNode:
        """The larger node."""
        return self.nodes[1]

    def _start_node(self, name: str) -> SlurmNode:
        self._homes += 1
        home = self._folder / f"home-{self._homes}"  # a new one knows nothing of whose place it takes
        variables = {**self._variables, HOME_VARIABLE: str(home), "PATH": _path()}
        if "PYTHONPATH" in os.environ:  # the conjure under test may be there
            variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        profile = self._folder / f"profile-{name}"
        profile.touch(mode=0o600)
        profile.write_text("".join(lines))
        return SlurmNode(name, home, self._daemon("slurmd", "-D", "-N", name, "-f", str(self._conf)))

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as output:
            daemon = subprocess.Popen(
                command,
                env={"PATH": _path(), "HOME": str(self._folder), _CONF: str(self._conf)},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon

    def definition(self, _folder: Path) -> str:
        """How a configuration describes it."""
        return f"kind = \"slurm\"\nsetup = '. {self._folder}/profile-$SLURMD_NODENAME'\n"

    @property
    def homes(self) -> list[Home]:
        """Conjure's home on each node."""
        return [node.home for node in self.nodes]

    def lose(self, node: SlurmNode, run: Run) -> None:
        """SIGKILL to a node with the only run that is there, at one stroke."""
        supervisor = supervisor_of(run)
        lost = [supervisor.parent, supervisor.pid, *(each.pid for each in descendants(supervisor.pid))]
        lost += [each.pid for each in self._steps()]
        _send(lost, signal.SIGSTOP)  # first, so that none can do anything about the others' end
        node.process.kill()
        node.process.wait()
        _send(lost, signal.SIGKILL)

    def replace(self, node: SlurmNode) -> None:
        """Another node in the place of one that was lost."""
        self.nodes[self.nodes.index(node)] = self._start_node(node.name)
        self.wait_for_nodes(2)

    def _steps(self) -> list[Process]:
        own = with_variables([f"{_CONF}={self._conf}".encode()])
        return [each for each in own if each.name.startswith("slurmstepd")]

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the controller says that so many can take jobs."""
        _wait(lambda: self.ask("sinfo", "-h", "-r", "-o", "%D", "-t", "idle,mixed") == str(count), self._log)

    def occupy(self, cores: int, until: Path) -> None:
        """Have jobs of somebody else's use so many cores, until there is that file."""
        for _ in range(cores):
            script = f"#!/bin/sh\nwhile [ ! -e {until} ]; do sleep 0.1; done\n"
            self.ask("sbatch", "--export=NONE", "--chdir=/", "--output=/dev/null", script=script)

    def tell_all(self, job: str) -> str:
        """All that the cluster tells of a job to whom it tells most."""
        number = self.ask("squeue", "-h", "-t", "all", "-o", "%i", f"--name={job}")
        script = self._folder / "script"
        self.ask("scontrol", "write", "batch_script", number, str(script))
        return self.ask("scontrol", "show", "job", "-d", number) + script.read_text()

    def stop_job(self, job: str) -> None:
        """End a job as its user would."""
        self.ask("scancel", f"--name={job}")

    def ask(self, *command: str, script: str = "") -> str:
        """What one of Slurm's programs prints; nothing if it fails."""
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-3000:]

    def _end(self) -> None:
        _send([step.pid for step in self._steps()], signal.SIGKILL)
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()


def _path() -> str:
    """Programs for administrators are on it as well."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # one may be done, or have ended with another
            os.kill(pid, number)


def _wait(is_so: Callable[[], bool], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, log()
        time.sleep(0.1)
