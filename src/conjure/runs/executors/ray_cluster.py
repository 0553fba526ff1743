"""A Ray cluster, by the REST interface of its jobs and its dashboard: nothing of Ray is imported.

Main entry: `RayCluster`. Invariant: what cannot be asked is an `UnreachableError` and nothing else; nobody
concludes from it that a job has ended.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from conjure.core.config import ExecutorSettings
from conjure.errors import ExecutorError

_TIMEOUT_S = 10.0
_MOST_BYTES = 1 << 26


class UnreachableError(ExecutorError):
    """The cluster does not answer now."""

    code = "executor_unreachable"


@dataclass(frozen=True, slots=True)
class Amounts:
    """Cores, GPUs and bytes of memory: of a node, or that a run asks for."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)

    def __sub__(self, other: "Amounts") -> "Amounts":
        return self + Amounts(-other.cpus, -other.gpus, -other.memory_bytes)

    def holds(self, other: "Amounts") -> bool:
        """Whether there is room for the others in these."""
        left = self - other
        return min(left.cpus, left.gpus, left.memory_bytes) >= 0


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster: what it has, and what of that is free."""

    id: str
    total: Amounts
    free: Amounts


@dataclass(frozen=True, slots=True)
class RayJob:
    """A job as the cluster tells of it.

    Attributes:
        id: As it was submitted.
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        message: What the cluster says about that.
        exit_code: Of its entry point, where that ended by itself.
    """

    id: str
    status: str
    message: str = ""
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left, as far as the cluster knows."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class RayCluster:
    """The cluster behind an address.

    Args:
        settings: What the user's configuration says of it.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings

    def nodes(self) -> list[RayNode]:
        """The nodes that are there, with what they have.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        status = self._ask("GET", "/api/cluster_status")
        try:
            used_by_node = status["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"]
        except (KeyError, TypeError) as error:
            raise self._unreachable("it has no status yet") from error
        return [_node(name, amounts) for name, amounts in sorted((used_by_node or {}).items())]

    def jobs(self) -> list[RayJob]:
        """All jobs that the cluster remembers.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        return [_job(each) for each in self._ask("GET", "/api/jobs/") if each.get("submission_id")]

    def submit(
        self, job: str, entrypoint: str, needs: Amounts, labels: Mapping[str, str] | None = None
    ) -> None:
        """Hand a job over; one that was handed over before stays as it is.

        Args:
            job: Its id.
            entrypoint: A line for the shell.
            needs: What it takes of a node.
            labels: What the node must be labelled with.

        Raises:
            UnreachableError: The cluster does not answer.
            ExecutorError: It refuses.
        """
        wanted: dict[str, Any] = {"submission_id": job, "entrypoint": entrypoint}
        wanted["entrypoint_num_cpus"] = needs.cpus
        if needs.gpus:
            wanted["entrypoint_num_gpus"] = needs.gpus
        if needs.memory_bytes:
            wanted["entrypoint_memory"] = int(needs.memory_bytes)
        if labels is not None:
            wanted["entrypoint_label_selector"] = dict(labels)
        try:
            self._ask("POST", "/api/jobs/", wanted)
        except UnreachableError:
            raise
        except ExecutorError as error:
            if "already exists" not in str(error):
                raise

    def output(self, job: str) -> str:
        """What a job has printed.

        Raises:
            UnreachableError: The cluster, or the node that it was on, does not answer.
        """
        return str(self._ask("GET", f"/api/jobs/{job}/logs").get("logs") or "")

    def stop(self, job: str) -> None:
        """Ask for the end of a job.

        Raises:
            UnreachableError: The cluster does not answer.
        """
        self._ask("POST", f"/api/jobs/{job}/stop")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        # Thirty milliseconds with what they import, which only who asks a cluster need pay.
        import urllib.error
        import urllib.request

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        token = self._settings.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the configuration lets http and https through
            f"{self._settings.address}{path}", data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
                return json.loads(answer.read(_MOST_BYTES) or b"null")
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_MOST_BYTES).decode(errors="replace")
            raise self._refusal(error.code, said) from error
        except (OSError, ValueError) as error:
            raise self._unreachable(str(getattr(error, "reason", error))) from error

    def _refusal(self, status: int, said: str) -> ExecutorError:
        if status in (401, 403):
            return ExecutorError(
                f"executor {self._settings.name} refused the token (HTTP {status})",
                hint="set token_file in its table of the configuration",
            )
        last = (said.strip().splitlines() or [""])[-1][:500]
        if status >= 500 and "already exists" not in said:
            return self._unreachable(f"HTTP {status}: {last}")
        return ExecutorError(f"executor {self._settings.name} refuses: {said.strip()[-500:]}")

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"executor {self._settings.name} cannot be reached at {self._settings.address}: {reason}"
        )


def _node(name: str, usage: Mapping[str, Iterable[float]]) -> RayNode:
    def amounts(place: int) -> Amounts:
        values = [list(usage.get(kind) or (0.0, 0.0))[place] for kind in ("CPU", "GPU", "memory")]
        return Amounts(*map(float, values))

    return RayNode(name, amounts(1), amounts(1) - amounts(0))


def _job(told: Mapping[str, Any]) -> RayJob:
    return RayJob(
        str(told["submission_id"]),
        str(told.get("status")),
        str(told.get("message") or ""),
        told.get("driver_exit_code"),
    )
