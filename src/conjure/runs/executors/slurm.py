"""A Slurm cluster, by its own programs: sbatch, squeue, sinfo and scancel, on the PATH of this machine.

Main entry: `SlurmCluster`. Invariant: a job has the environment of its account on the node and nothing of
this machine's. Programs are asked field by field: their JSON changes more from version to version.
"""

import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence

from conjure.core.text import error_text
from conjure.errors import ExecutorError
from conjure.runs.executors.cluster import (
    JOB_VARIABLE,
    NO_SUCH_PROGRAM,
    Amounts,
    Cluster,
    ClusterJob,
    ClusterNode,
    JobState,
    LimitReachedError,
    UnreachableError,
)

_TIMEOUT_S = 30.0
_CONF = "SLURM_CONF"
_MEBIBYTE = 1 << 20
# A run has 30 s to end and some more to save; Slurm may be a minute early.
_BEFORE_TIME_LIMIT_S = 120
_CHECK = Amounts(1.0, 0.0, 256.0 * _MEBIBYTE)
_USABLE = {"idle", "mixed", "allocated", "completing", "planned"}
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
_ENDED_BY_ITSELF = {"COMPLETED", "FAILED", "OUT_OF_MEMORY"}
_OVER = _ENDED_BY_ITSELF | {
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
_GPUS = re.compile(r"gpu(?::[^:,()]+)?:([0-9]+)")
_PARTITION = re.compile(r"(?:^|\s)(?:-p\s*|--partition[=\s])(\S+)")
# What sbatch says of a job where its account has as many as it may have, and of one that is too large for it.
_LIMIT = "accounting/QOS policy"
# The node cannot be asked for what a job prints, so the job leaves its last line with the controller.
_TELL = """\
told=$({entrypoint})
ended=$?
scontrol update JobId="$SLURM_JOB_ID" Comment="$(tail -n 1 <<< "$told")"
exit $ended"""

# On all nodes of a job but the first, where its script is. What is not asked for, a step is not given.
_STEP = (
    f"export {JOB_VARIABLE}=$SLURM_JOB_ID\n"
    "srun --relative=1 --nodes={count} --ntasks={count} --cpus-per-task={cpus} --export=ALL"
    " bash -c {script} < /dev/null &"
)


class SlurmCluster(Cluster):
    """The cluster that Slurm's programs on this machine are set up for."""

    has_queue = True
    look_every_s = 5.0  # a controller answers to everybody
    account = "your account"
    path = "the PATH of jobs; `setup` in config.toml can put it there"

    def nodes(self) -> list[ClusterNode]:
        """The nodes of the partition that can take jobs, with what they have."""
        partition = self._partition
        fields = ("NodeList", "Partition", "StateLong", "CPUsState", "Memory", "AllocMem", "Gres", "GresUsed")
        which = ["--all"] if partition is None else ["--partition", partition]
        rows = self._rows("sinfo", fields, "--Node", "--responding", *which)
        found = {}
        for node, of, state, cpus, memory, memory_used, gres, gres_used in rows:
            if re.split(r"[^a-z]", state)[0] not in _USABLE or (partition is None and not of.endswith("*")):
                continue  # without a partition, jobs go to the default one, which sinfo marks so
            used, idle, *_ = map(int, cpus.split("/"))
            total = Amounts(used + idle, _gpus(gres), float(memory) * _MEBIBYTE)
            taken = Amounts(used, _gpus(gres_used), float(memory_used) * _MEBIBYTE)
            found[node] = ClusterNode(node, node, total, total - taken)
        return list(found.values())

    def jobs(self) -> list[ClusterJob]:
        """The jobs of all users: another member of the team may have submitted one."""
        rows = self._rows("squeue", ("State", "exit_code", "Reason", "Name"), "--all", "--states=all")
        return [_job(*row) for row in rows]

    def submit(self, job: str, entrypoint: str, needs: Amounts) -> None:
        """Hand a job over. Two of the same name do no harm: one of them claims the run."""
        self._sbatch(job, entrypoint, needs)

    def submit_together(
        self, jobs: Sequence[tuple[str, str]], needs: Amounts, nodes: Sequence[ClusterNode]
    ) -> None:
        """Hand over one job, for so many nodes as there are entry points; Slurm chooses them."""
        del nodes
        (job, first), *others = jobs
        places = "\n".join(f"{place}) {line} ;;" for place, (_, line) in enumerate(others))
        script = "\n".join([self._settings.setup, "case $SLURM_PROCID in", places, "esac"])
        step = _STEP.format(count=len(others), cpus=_whole_cpus(needs), script=shlex.quote(script))
        self._sbatch(job, f"{step}\n{first}", needs, nodes=len(jobs))

    def submit_check(self, job: str, entrypoint: str, node: ClusterNode) -> None:
        """Hand a job over to one node; it waits there for a core."""
        self._sbatch(job, _TELL.format(entrypoint=entrypoint), _CHECK, f"--nodelist={node.id}")

    def output(self, job: str) -> str:
        """The last line that a check has printed."""
        rows = self._rows("squeue", ("Comment",), "--all", "--states=all", f"--name={job}")
        return "\n".join("|".join(row) for row in rows)

    def withdraw(self, job: str) -> None:
        """Cancel a job, if it is pending."""
        self._ask("scancel", "--quiet", "--state=PENDING", f"--name={job}")

    @property
    def _partition(self) -> str | None:
        """Where jobs go, if not to the default partition; an option of sbatch's may say so, too."""
        option = _PARTITION.search(" ".join(self._settings.options))
        return self._settings.partition or (option[1] if option is not None else None)

    def _sbatch(self, job: str, script: str, needs: Amounts, *more: str, nodes: int = 1) -> None:
        settings = self._settings
        given = list(settings.options) + ([f"--partition={settings.partition}"] if settings.partition else [])
        if needs.gpus:
            given.append(f"--gres=gpu:{needs.gpus:.0f}")
        if needs.memory_bytes:
            given.append(f"--mem={math.ceil(needs.memory_bytes / _MEBIBYTE)}M")
        own = (
            *("--export=NONE", "--propagate=NONE", "--no-requeue", f"--job-name={job}", "--chdir=/"),
            *("--input=/dev/null", "--output=/dev/null", "--error=/dev/null"),
            *(f"--nodes={nodes}", f"--ntasks={nodes}", f"--cpus-per-task={_whole_cpus(needs)}"),
            f"--signal=B:TERM@{_BEFORE_TIME_LIMIT_S}",
        )
        text = "\n".join(["#!/bin/bash", settings.setup, script, ""])
        done = self._call("sbatch", *given, *own, *more, script=text)
        if done.returncode:  # it answered for jobs and nodes just now
            said = _last_line(done)
            kind = LimitReachedError if _LIMIT in said else ExecutorError
            raise kind(f"executor {settings.name} refused the request: {said}")

    def _rows(self, program: str, fields: tuple[str, ...], *options: str) -> list[list[str]]:
        form = ",".join(f"{field}:|" for field in fields)
        text = self._ask(program, "--noheader", *options, f"--Format={form}")
        return [line.removesuffix("|").split("|") for line in text.splitlines()]

    def _ask(self, *command: str) -> str:
        done = self._call(*command)
        if done.returncode:
            raise self._unreachable(_last_line(done))
        return done.stdout

    def _call(self, *command: str, script: str = "") -> subprocess.CompletedProcess[str]:
        # Where conjure itself was started in a job, that job's variables are not for another one.
        own = {
            name: os.environ[name] for name in os.environ if name == _CONF or not name.startswith("SLURM_")
        }
        try:
            return subprocess.run(
                command, input=script, capture_output=True, text=True, env=own, timeout=_TIMEOUT_S
            )
        except FileNotFoundError:
            raise self._unreachable(f"`{command[0]}` is not on the PATH of this machine") from None
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise self._unreachable(error_text(error)) from error

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(f"executor {self._settings.name} cannot be reached: {reason}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:500]


def _whole_cpus(needs: Amounts) -> int:
    return max(1, math.ceil(needs.cpus))


def _gpus(resources: str) -> float:
    return float(sum(map(int, _GPUS.findall(resources))))


def _job(state: str, status: str, reason: str, *name: str) -> ClusterJob:
    over = JobState.OVER if state in _OVER else JobState.RUNNING
    code = os.waitstatus_to_exitcode(int(status)) if state in _ENDED_BY_ITSELF else None
    why = "`conjure` is not on its PATH" if code == NO_SUCH_PROGRAM else f"its job is {state} ({reason})"
    return ClusterJob("|".join(name), JobState.PENDING if state in _PENDING else over, why, code)
