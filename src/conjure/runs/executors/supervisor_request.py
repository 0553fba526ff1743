"""What a supervisor is given: all it takes to run a command as the process that submitted it would have.

Main entry: `SupervisorRequest`. Invariant: it holds secrets, so it goes through pipes and memory only.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from conjure.runs.host.capacity import Capacity
from conjure.runs.host.process_settings import ProcessSettings
from conjure.runs.schema.spec import RunSpec

LOCAL = "local"
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Program:
    """A conjure that can supervise runs: its interpreter, and which state its code is in."""

    interpreter: str
    code: str

    @classmethod
    @cache
    def of_this_process(cls) -> "Program":
        """The conjure this is called in."""
        return cls(sys.executable, f"{_PACKAGE}@{_newest_change(_PACKAGE / 'runs')}")


def _newest_change(folder: str | os.PathLike[str]) -> int:
    """When a module in a folder, or in one below, was last written (`st_mtime_ns`)."""
    newest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                newest = max(newest, _newest_change(entry))
            elif entry.name.endswith(".py"):
                newest = max(newest, entry.stat().st_mtime_ns)
    return newest


@dataclass(frozen=True, slots=True)
class SupervisorRequest:
    """A run as it was asked for, with the surroundings it was asked for in.

    Attributes:
        spec: What was asked, secrets included.
        requested: When, by `time.monotonic`, which all processes of a machine share.
        capacity: What there was to share, as seen from there.
        variables: The environment the supervisor is to have.
        settings: What else it would have inherited.
        program: The conjure that was called.
        executor: Name of the executor that starts the supervisor.
        boot_id: Where and since when `requested` counts.
        job: What the cluster calls the supervisor's job, where one job has several nodes; else empty.
    """

    spec: RunSpec
    requested: float
    capacity: Capacity
    variables: dict[str, str]
    settings: ProcessSettings
    program: Program
    executor: str = LOCAL
    boot_id: str = ""
    job: str = ""

    def arguments(self, number: int) -> list[str]:
        """The supervisor of a run, as a command: it reads this request, as JSON, from standard input."""
        return [self.program.interpreter, "-P", "-m", "conjure.runs.lifecycle.supervisor", str(number)]

    def to_json(self) -> str:
        """The request as text."""
        return json.dumps(asdict(self) | {"spec": self.spec.to_dict(secrets=True)})

    @classmethod
    def from_json(cls, text: str | bytes) -> "SupervisorRequest":
        """The request that `to_json` wrote."""
        stored = json.loads(text)
        capacity = stored["capacity"]
        return cls(
            RunSpec.from_dict(stored["spec"]),
            stored["requested"],
            Capacity(capacity["cpus"], tuple(capacity["gpu_ids"]), capacity["memory_bytes"]),
            stored["variables"],
            ProcessSettings.from_dict(stored["settings"]),
            Program(**stored["program"]),
            stored.get("executor", LOCAL),
            stored.get("boot_id", ""),
        )
