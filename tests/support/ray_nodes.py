"""A real Ray cluster for tests: a head and further nodes on this machine, gone with the tests.

Main entry: `RayNodes`. Invariant: it ends the processes that it started and no others: another cluster
on the machine is left alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conjure.core.home import HOME_VARIABLE, Home
from conjure.runs.host.process import Process, descendants, find_process
from support.ports import free_ports

_PATIENCE_S = 240.0
_BIN = Path(sys.executable).parent
_STORE_BYTES = 100_000_000


class RayNode:
    """One node: `ray start` and all that it has started.

    Attributes:
        home: The folder that is conjure's home for the account that Ray runs as there.
    """

    def __init__(self, arguments: list[str], folder: Path, home: Path, given: Mapping[str, str]) -> None:
        self.home = Home(home)
        log = folder / "log"
        variables = {name: value for name, value in os.environ.items() if not name.startswith("CONJURE_")}
        variables |= given | {
            HOME_VARIABLE: str(home),
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        ports = zip(
            ("--dashboard-agent-listen-port", "--runtime-env-agent-port", "--metrics-export-port"),
            map(str, free_ports(3)),
            strict=True,
        )
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(str(_BIN / "ray"), "start", "--block", "--disable-usage-stats"),
                    *("--object-store-memory", str(_STORE_BYTES), "--min-worker-port", "0"),
                    *("--max-worker-port", "0", *(word for pair in ports for word in pair)),
                    *arguments,
                ],
                env=variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def processes(self) -> list[Process]:
        """All that is there of it now."""
        own = find_process(self.process.pid)
        return ([own] if own is not None else []) + descendants(self.process.pid)

    def raylet(self) -> Process:
        """The process that places jobs on the node, and ends them."""
        (found,) = [each for each in self.processes() if each.name == "raylet"]
        return found

    def kill(self) -> None:
        """SIGKILL to all of it; nothing if that was done before: its number may be another process's."""
        if self.process.returncode is not None:
            return
        for _ in range(3):  # what is just being started is found the next time
            for each in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
        self.process.wait()


class RayNodes:
    """A cluster; the context manager starts and ends it.

    Attributes:
        heartbeat_s: Seconds between the heartbeats of runs there, for who sets up its homes.
    """

    token = "hunter2-of-the-cluster"

    def __init__(self, folder: Path, variables: Mapping[str, str], heartbeat_s: float) -> None:
        self.heartbeat_s = heartbeat_s
        self._folder = folder
        self._variables = variables
        self._nodes: list[RayNode] = []
        self._port, self._dashboard = free_ports(2)
        self.address = f"http://127.0.0.1:{self._dashboard}"

    def start(self) -> None:
        """Start the head, and a node beside it."""
        head = ["--head", "--port", str(self._port), "--dashboard-port", str(self._dashboard)]
        self.head = self._start([*head, "--num-cpus", "1", "--temp-dir", str(self._folder / "r")])
        self.wait_for_nodes(1)
        self.worker = self.add_node()
        self.wait_for_nodes(2)

    @classmethod
    @contextmanager
    def running(cls, variables: Mapping[str, str], heartbeat_s: float) -> Iterator["RayNodes"]:
        """A cluster while the block lasts.

        Args:
            variables: What the account has that Ray runs as.
            heartbeat_s: Seconds between the heartbeats of runs there.
        """
        folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))  # sockets need a short path
        nodes = cls(folder, variables, heartbeat_s)
        try:
            nodes.start()
            yield nodes
        finally:
            for node in reversed(nodes._nodes):
                node.kill()
            shutil.rmtree(folder, ignore_errors=True)

    def add_node(self) -> RayNode:
        """A further node, with two cores, of which the head has one."""
        self.worker = self._start(["--address", f"127.0.0.1:{self._port}", "--num-cpus", "2"])
        return self.worker

    def replace_worker(self) -> None:
        """Another node in the place of the one beside the head."""
        self.worker.kill()
        self.wait_for_nodes(1)
        self.add_node()
        self.wait_for_nodes(2)

    def definition(self, folder: Path) -> str:
        """How a configuration describes it.

        Args:
            folder: For the token, which this cluster does not look at.
        """
        file = folder / "token"
        file.write_text(self.token)
        return f'kind = "ray"\naddress = "{self.address}"\ntoken_file = "{file}"\n'

    def occupy(self, cores: int, until: Path) -> None:
        """Have jobs of somebody else's use so many cores, until there is that file."""
        for place in range(cores):
            body = {
                "submission_id": f"other-{until.parent.name}-{place}",
                "entrypoint": f"while [ ! -e {until} ]; do sleep 0.1; done",
                "entrypoint_num_cpus": 1,
            }
            self.ask("/api/jobs/", body)

    def tell_all(self, job: str) -> str:
        """All that the cluster tells of a job."""
        jobs = [each for each in self.ask("/api/jobs/") if each["submission_id"] == job]
        return json.dumps([jobs, self.ask(f"/api/jobs/{job}/logs")])

    def stop_job(self, job: str) -> None:
        """End a job as its user would."""
        self.ask(f"/api/jobs/{job}/stop", {})

    def _start(self, arguments: list[str]) -> RayNode:
        home = self._folder / f"node-{len(self._nodes)}"  # a new one knows nothing of whose place it takes
        node = RayNode(arguments, self._folder, home, self._variables)
        self._nodes.append(node)
        return node

    @property
    def homes(self) -> list[Home]:
        """Conjure's home on each node."""
        return [self.head.home, self.worker.home]

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the cluster says that it has so many."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._count() != count:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-3000:]
            time.sleep(0.1)

    def _count(self) -> int | None:
        try:
            status = self.ask("/api/cluster_status")
            return len(status["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"])
        except (OSError, KeyError, TypeError):
            return None

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """What the cluster answers: to a POST, where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
