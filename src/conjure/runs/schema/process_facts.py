"""What is recorded of processes: which one supervises a run, and what a run used.

Main entries: `Owner`, `Usage`. Invariant: plain values, the same after a restart of the machine.
"""

from dataclasses import dataclass, field

_QUEUE_OF = "queue of "
_EXECUTOR = "executor "
_MEMBER = " of "


def machine_name(host_id: str, member: str) -> str:
    """The name under which the runs of one home of a team stand: a machine may have several such homes."""
    return f"{host_id}{_MEMBER}{member}" if member else host_id


@dataclass(frozen=True, slots=True)
class Owner:
    """A run's supervisor: enough to tell it from any other process, on any machine, after any restart.

    Attributes:
        host_id: Of the machine.
        boot_id: Of the time since the machine was started.
        pid: Its number there.
        started: When, as the system counts.
        host_name: What people call the machine.
    """

    host_id: str
    boot_id: str
    pid: int
    started: str
    host_name: str = field(default="", compare=False)

    @classmethod
    def queue(cls, host_id: str, boot_id: str) -> "Owner":
        """The queue of a machine, which has a run that waits there: it has no supervisor yet.

        The machine's name is marked, for 0.1.0 closes a run of its own machine that has no supervisor, and
        leaves those of other machines alone.
        """
        return cls(f"{_QUEUE_OF}{host_id}", boot_id, 0, "")

    @classmethod
    def of_executor(cls, name: str) -> "Owner":
        """An executor that has a run whose supervisor is still to take it."""
        return cls(f"{_EXECUTOR}{name}", "", -1, "")

    @classmethod
    def queue_of_executor(cls, name: str) -> "Owner":
        """The queue of a cluster: who starts what waits there is any machine that knows it."""
        return cls.queue(cls.of_executor(name).host_id, "")

    @property
    def is_queue(self) -> bool:
        """Whether this is a machine's queue, not a process."""
        return self.pid == 0

    @property
    def is_executor(self) -> bool:
        """Whether this is an executor, whose supervisor is still to take the run over."""
        return self.pid == -1

    @property
    def host(self) -> str:
        """The `host_id` of the machine, be it a process of it or its queue, without the member."""
        return self.machine.partition(_MEMBER)[0]

    @property
    def member(self) -> str:
        """Whose home of a team it belongs to, as ``ada@gpu-2``; "" where that does not matter."""
        return self.machine.partition(_MEMBER)[2].partition("/")[0]

    @property
    def machine(self) -> str:
        """The `machine_id` of the home, be it a process on it or its queue."""
        return self.host_id.removeprefix(_QUEUE_OF)


@dataclass(frozen=True, slots=True)
class Usage:
    """The most a run used of the machine, and what it used in all.

    Attributes:
        cpu_s: Processor time, seconds.
        peak_memory_bytes: Largest sum of the resident memory of its processes.
        read_bytes: Bytes its processes read from disk, as far as the system tells.
        written_bytes: Bytes its processes wrote to disk, as far as the system tells.
        peak_gpu_memory_bytes: Largest GPU memory in use by its processes, or None without a GPU.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_gpu_memory_bytes: int | None = None
