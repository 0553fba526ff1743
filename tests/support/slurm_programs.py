"""Stand-ins for Slurm's programs: they keep jobs in a file, and a test says what becomes of them.

Main entry: `SlurmPrograms`. What the real ones print is held by tests/cluster/test_slurm.py.
"""

import json
import sys
from pathlib import Path

from conjure.core.config import ExecutorSettings

_PROGRAM = """\
import json, os, sys
from pathlib import Path

file = Path(__file__).with_name("state.json")
state = json.loads(file.read_text())
program, options = Path(__file__).name, sys.argv[1:]


def value(option):
    return next((each.partition("=")[2] for each in options if each.startswith(option + "=")), None)


if not state["is_up"]:
    sys.exit(f"{program}: error: Unable to contact slurm controller (connect failure)")
if program in ("squeue", "sinfo"):
    rows = state["jobs"] if program == "squeue" else state["nodes"]
    for row in rows:
        if value("--name") in (None, row.get("Name")):
            print("".join(f"{row[field.split(':')[0]]}|" for field in value("--Format").split(",")))
elif program == "scancel":
    for job in state["jobs"]:
        if job["Name"] == value("--name") and job["State"] == "PENDING":
            job["State"] = "CANCELLED"
elif value("--job-name") in state["refuses"]:
    sys.exit(f"sbatch: error: Batch job submission failed: {state['refusal']}")
else:
    given = dict.fromkeys(("options", "script", "variables"))
    given["options"], given["script"], given["variables"] = options, sys.stdin.read(), dict(os.environ)
    job = {"State": "PENDING", "exit_code": 0, "Reason": "None", "Comment": "(null)", **given}
    state["jobs"].append(job | {"Name": value("--job-name")} | state["becomes"])
file.write_text(json.dumps(state))
"""


class SlurmPrograms:
    """A cluster of one node, until a test says otherwise.

    Args:
        folder: Where they are; a test puts it first on the PATH.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        nodes = [self.node("a", "0/2/0/2")]
        state = {"is_up": True, "jobs": [], "nodes": nodes, "becomes": {}, "refuses": []}
        self._write({**state, "refusal": "Requested node configuration is not available"})
        for name in ("sbatch", "squeue", "sinfo", "scancel"):
            program = folder / name
            program.write_text(f"#!{sys.executable} -SE\n{_PROGRAM}")
            program.chmod(0o755)

    @staticmethod
    def node(name: str, cpus: str, **facts: str) -> dict[str, str]:
        """A node as sinfo tells of it."""
        known = {"NodeList": name, "Partition": "main*", "StateLong": "idle", "CPUsState": cpus}
        amounts = {"Memory": "4096", "AllocMem": "0", "Gres": "(null)", "GresUsed": "(null)"}
        return {**known, **amounts, **facts}

    def settings(self, **given: object) -> ExecutorSettings:
        """How a configuration names it."""
        return ExecutorSettings("gpu", "slurm", **given)

    def set(self, **facts: object) -> None:
        """Change what is so: ``is_up``, ``nodes``, what a job ``becomes`` when it is submitted, or the names
        of jobs that it ``refuses``, with the words of the ``refusal``."""
        self._write(json.loads(self._file.read_text()) | facts)

    @property
    def jobs(self) -> dict[str, dict[str, object]]:
        """What was submitted, by name."""
        return {job["Name"]: job for job in json.loads(self._file.read_text())["jobs"]}

    def begin(self, job: str) -> None:
        """Let a job run."""
        self._change(job, State="RUNNING")

    def complete(self, job: str) -> None:
        """Let a job end well."""
        self._change(job, State="COMPLETED")

    def fail(self, job: str, exit_code: int) -> None:
        """Let a job end so by itself."""
        self._change(job, State="FAILED", exit_code=exit_code << 8, Reason="NonZeroExitCode")

    def lose(self, job: str) -> None:
        """Let a job be lost with its node."""
        self._change(job, State="NODE_FAIL", Reason="NodeDown")

    def _change(self, name: str, **facts: object) -> None:
        jobs = self.jobs
        jobs[name] |= facts
        self.set(jobs=list(jobs.values()))

    def _write(self, state: dict[str, object]) -> None:
        self._file.write_text(json.dumps(state))
