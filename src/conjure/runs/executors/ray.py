"""A Ray cluster, by the REST interface of its jobs and its dashboard: nothing of Ray is imported.

Main entry: `RayCluster`. Invariant: a job that was submitted before stays as it is, whoever submits it again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conjure.errors import ExecutorError
from conjure.runs.executors.cluster import (
    NOTHING,
    Amounts,
    Cluster,
    ClusterJob,
    ClusterNode,
    JobState,
    UnreachableError,
)

if TYPE_CHECKING:
    from urllib.error import HTTPError
    from urllib.request import OpenerDirector

_TIMEOUT_S = 10.0
_MOST_BYTES = 1 << 26
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class RayCluster(Cluster):
    """The cluster behind an address."""

    has_queue = False
    look_every_s = 1.0
    account = "the account that Ray runs as"
    path = "the PATH of Ray"

    def nodes(self) -> list[ClusterNode]:
        """The nodes that are there, with what they have."""
        status = self._ask("GET", "/api/cluster_status")
        try:
            used_by_node = status["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"]
        except (KeyError, TypeError) as error:
            raise self._unreachable("it has no status yet") from error
        return [_node(name, amounts) for name, amounts in sorted((used_by_node or {}).items())]

    def jobs(self) -> list[ClusterJob]:
        """All jobs that the cluster remembers."""
        return [_job(each) for each in self._ask("GET", "/api/jobs/") if each.get("submission_id")]

    def submit(self, job: str, entrypoint: str, needs: Amounts) -> None:
        """Hand a job over; one that was handed over before stays as it is."""
        self._submit(job, entrypoint, needs)

    def submit_together(
        self, jobs: Sequence[tuple[str, str]], needs: Amounts, nodes: Sequence[ClusterNode]
    ) -> None:
        """Hand over a job for each node. The first is the last to go: only with the others is it of use."""
        for (job, entrypoint), node in reversed(list(zip(jobs, nodes, strict=True))):
            self._submit(job, entrypoint, needs, {"ray.io/node-id": node.id})

    def submit_check(self, job: str, entrypoint: str, node: ClusterNode) -> None:
        """Hand a job over to one node; it takes nothing, so that it need not wait for runs there."""
        self._submit(job, entrypoint, NOTHING, {"ray.io/node-id": node.id})

    def _submit(
        self, job: str, entrypoint: str, needs: Amounts, labels: Mapping[str, str] | None = None
    ) -> None:
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
        """What a job has printed."""
        return str(self._ask("GET", f"/api/jobs/{job}/logs").get("logs") or "")

    def withdraw(self, job: str) -> None:
        """Nothing: a cluster that was asked to stop a pending job starts it all the same (ray#58353)."""

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        # Thirty milliseconds with what they import, which only who asks a cluster need pay.
        import http.client
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
            try:
                with _opener().open(request, timeout=_TIMEOUT_S) as answer:
                    return json.loads(answer.read(_MOST_BYTES) or b"null")
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(_MOST_BYTES).decode(errors="replace")
                raise self._refusal(error, said) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise self._unreachable(reason) from error

    def _refusal(self, error: "HTTPError", said: str) -> ExecutorError:
        status = error.code
        if 300 <= status < 400:
            return self._unreachable(
                f"it redirects to {error.headers.get('Location')}, which is not followed"
            )
        if status in (401, 403):
            return ExecutorError(
                f"executor {self._settings.name} refused the token (HTTP {status})",
                hint="set token_file in its table of the configuration",
            )
        last = (said.strip().splitlines() or [""])[-1][:500]
        if status >= 500 and "already exists" not in said:
            return self._unreachable(f"HTTP {status}: {last}")
        return ExecutorError(f"executor {self._settings.name} refused the request: {said.strip()[-500:]}")

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"executor {self._settings.name} cannot be reached at {self._settings.address}: {reason}"
        )


def _opener() -> "OpenerDirector":
    """What sends a request to its address and nowhere else, for it may have a token."""
    import urllib.request

    opener = urllib.request.OpenerDirector()  # by default, it would follow redirects to other hosts
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _node(name: str, usage: Mapping[str, Iterable[float]]) -> ClusterNode:
    def amounts(place: int) -> Amounts:
        values = [list(usage.get(kind) or (0.0, 0.0))[place] for kind in ("CPU", "GPU", "memory")]
        return Amounts(*map(float, values))

    return ClusterNode(name, name[:8], amounts(1), amounts(1) - amounts(0))


def _job(told: Mapping[str, Any]) -> ClusterJob:
    status = str(told.get("status"))
    state = {"PENDING": JobState.PENDING}.get(status, JobState.OVER if status in _OVER else JobState.RUNNING)
    message, code = str(told.get("message") or ""), told.get("driver_exit_code")
    return ClusterJob(str(told["submission_id"]), state, message, code, str(told.get("driver_node_id") or ""))
