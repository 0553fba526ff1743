"""Carrying out a command by several processes that work together, as programs of `torch.distributed` do.

Main entry: `start_ranked`. Each process is told its place among them by the variables that such programs
read. Invariant: they end together: when one fails, or is found to hang (`hang_detector`), all are ended, and
the exit is that of the one that failed first.
"""

import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

from conjure.rank_protocol import LISTEN_VARIABLE, PROGRESS_VARIABLE, ProgressFile
from conjure.runs.distributed.node_coordinator import WorkerNodes
from conjure.runs.executors.command import Exit, Job, Ranks
from conjure.runs.executors.command_process import CommandProcess, open_process, send_to_all, usage_meter
from conjure.runs.host.hang_detector import HangDetector, RankObserver, RankState
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.host.process import Process

_LOOK_EVERY_S = 0.5
_GRACE_S = 3.0
_STOPPING_S = 5.0  # for the others to save, if one fails while all were asked to end
_QUIET_TORCH = ("TORCH_CPP_LOG_LEVEL", "FATAL")  # lest it add pages to what conjure says of an error
_LONGEST_LINE_BYTES = 1 << 16  # longer ones are broken up
_IS_LINUX = hasattr(os, "memfd_create")  # elsewhere, processes cannot be looked at either


def start_ranked(
    job: Job,
    exclude: Callable[[Process], bool],
    marks: ProcessMarks | None = None,
    worker_nodes: WorkerNodes | None = None,
) -> "RankedProcesses":
    """As `start_command`, once for each of the job's ranks.

    Args:
        job: The command.
        exclude: As for `start_command`.
        marks: As for `start_command`.
        worker_nodes: The other nodes, all ready, which start theirs as well; None if there are none.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    ranks = job.ranks
    assert ranks is not None
    with _bound_socket(ranks) as listener:
        port = listener.getsockname()[1]
        if ranks.labelled:
            listener.close()  # scripts open the port themselves
        if worker_nodes is not None:
            worker_nodes.start(port)
        processes = StartedRanks(job, ranks, port, marks, None if ranks.labelled else listener)
    return RankedProcesses(job, processes, exclude, marks, worker_nodes)


def _bound_socket(ranks: Ranks) -> socket.socket:
    """A socket at a free port of this machine, which other nodes reach if there are any."""
    family = socket.AF_INET6 if ":" in ranks.address else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.bind((ranks.address if ranks.nodes == 1 else "", 0))
    except BaseException:
        bound.close()
        raise
    return bound


class StartedRanks:
    """The processes of a command on this machine, started.

    Args:
        job: The command.
        ranks: How many processes, and which.
        port: Where rank 0 listens.
        marks: As for `start_command`.
        listener: A socket at that port, for rank 0; None for programs that open it themselves.

    Attributes:
        ranks: See above.
        processes: In the order of their ranks.
        progress: What they report; None if they do not.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """

    def __init__(
        self, job: Job, ranks: Ranks, port: int, marks: ProcessMarks | None, listener: socket.socket | None
    ) -> None:
        self.ranks = ranks
        self.progress = ProgressFile(ranks.total) if not ranks.labelled and _IS_LINUX else None
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in ranks.here:
                variables = {**job.variables, **rank_variables(ranks, rank, port)}
                given = _given_descriptors(rank, listener, self.progress)
                variables |= {name: str(descriptor) for name, descriptor in given.items()}
                if not ranks.labelled:
                    variables.setdefault(*_QUIET_TORCH)
                ranked = replace(job, variables=variables)
                self.processes.append(open_process(ranked, job.arguments, marks, tuple(given.values())))
        except BaseException:
            for process in self.processes:
                process.kill()
            if self.progress is not None:
                self.progress.close()
            raise


def _given_descriptors(
    rank: int, listener: socket.socket | None, progress: ProgressFile | None
) -> dict[str, int]:
    """What a process of a command of conjure's own is given open, by the variables that tell it."""
    given = {} if progress is None else {PROGRESS_VARIABLE: progress.descriptor}
    if rank == 0 and listener is not None:
        given[LISTEN_VARIABLE] = listener.fileno()
    return given


def rank_variables(ranks: Ranks, rank: int, port: int) -> dict[str, str]:
    """What a process is told of its place, as PyTorch's own launcher does."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks.total),
        "LOCAL_RANK": str(rank - ranks.here.start),
        "LOCAL_WORLD_SIZE": str(ranks.count),
        "NODE_RANK": str(ranks.node),
        "MASTER_ADDR": ranks.address,
        "MASTER_PORT": str(port),
    }


class RankedProcesses(CommandProcess):
    """The processes of a command (see `command.Execution`).

    Args:
        job: The command.
        started: Its processes on this machine.
        exclude: As for `start_command`.
        marks: As for `start_command`.
        worker_nodes: The other nodes that carry it out; None if there are none.
    """

    def __init__(
        self,
        job: Job,
        started: StartedRanks,
        exclude: Callable[[Process], bool],
        marks: ProcessMarks | None,
        worker_nodes: WorkerNodes | None = None,
    ) -> None:
        super().__init__(started.processes, exclude, usage_meter(job), marks)
        self._ranks = started.ranks
        own = list(zip(started.ranks.here, started.processes, strict=True))
        self._rank_of = {process.pid: rank for rank, process in own}
        self._are_conjures = not started.ranks.labelled
        self._grace_s = 0.0 if self._are_conjures else _GRACE_S
        self._failed: Exit | None = None
        self._is_to_end = False
        self._kill_at, self._next_look = math.inf, 0.0
        self._progress = started.progress
        self._observer, self._hangs = RankObserver(started.progress), HangDetector(started.ranks.nodes)
        self._workers = worker_nodes
        self._labels = {
            pipe.fileno(): _LineLabel(f"[{rank}] ".encode())
            for rank, process in own
            for pipe in (process.stdout, process.stderr)
            if pipe is not None and started.ranks.labelled
        }
        if worker_nodes is not None:
            worker_nodes.watch(self._selector)

    def terminate(self) -> None:
        """SIGTERM to the processes' groups: they may end one after the other."""
        self._is_to_end = True
        if self._workers is not None:
            self._workers.terminate()
        super().terminate()

    def kill(self) -> None:
        """SIGKILL to the processes and all their descendants, whatever group they are in."""
        if self._workers is not None:
            self._workers.kill()
        super().kill()

    def _read_pipes(self, timeout_s: float) -> list[tuple[str, bytes]]:
        found = super()._read_pipes(timeout_s)
        return found if self._workers is None else found + self._workers.read()

    def _read_pipe(self, pipe: int) -> bytes:
        label = self._labels.get(pipe)
        if label is None:
            return super()._read_pipe(pipe)
        while data := super()._read_pipe(pipe):
            if labelled := label.take(data):
                return labelled
        return b"" if self._is_open(pipe) else label.rest()

    def _look_for_end(self) -> None:
        failures = [] if self._workers is None else self._workers.take_failures()
        # The first one found is the cause. A process that exits may only do so for want of one that was lost
        # or killed, and of its node it may be heard at the same look.
        causes = [how for how in failures if how.is_lost or how.signal is not None]
        for how in sorted(causes, key=lambda how: not how.is_lost):
            self._end_all_for(how)
        for pid, code in sorted(
            self._take_ended().items(),
            key=lambda each: (each[1] >= 0, self._rank_of[each[0]]),  # killed ones first: others follow
        ):
            if code != 0:
                self._fail(self._rank_of[pid], self._exit_from(code))
        for how in failures:
            self._end_all_for(how)
        if not self._running and (self._workers is None or self._workers.have_ended):
            self._main_exit = self._failed if self._failed is not None else Exit(code=0)
        elif self._failed is not None:
            if time.monotonic() >= self._kill_at:
                self._kill_rest()
        elif self._are_conjures or not self._is_to_end:
            self._look_for_hang()

    def _end_all_for(self, how: Exit) -> None:
        """End all for what happened on another node."""
        self.end_all(how, f"{how.message}; the other processes were ended" if how.is_lost else how.message)

    def _kill_rest(self) -> None:
        send_to_all(self._descendants(), signal.SIGKILL)
        if self._workers is not None:
            self._workers.kill()

    def _fail(self, rank: int, how: Exit) -> None:
        """End the others, because one has failed."""
        # What fails with an exit status has said why itself, if it is a command of conjure's own.
        says_why = self._are_conjures and how.signal is None
        if self._ranks.total == 1 or self._is_to_end or says_why:
            self.end_all(how)
        else:
            self.end_all(how, f"{self._name(rank)} {_ending_words(how)}; {self._others} ended")

    def end_all(self, how: Exit, message: str | None = None) -> None:
        """End all processes, because one has failed; later failures change nothing.

        Args:
            how: How it ended.
            message: What is to be told of that.
        """
        if self._failed is not None:
            return
        self._failed = replace(how, message=message)
        now = time.monotonic()
        if not self._is_to_end:
            self._kill_at = now + self._grace_s
            if self._workers is not None:
                self._workers.fail()
            self._signal_group(signal.SIGTERM if self._grace_s else signal.SIGKILL)
        elif self._are_conjures:  # which cannot go on without one of them
            self._kill_at = now + _STOPPING_S

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self._ranks.total}"

    @property
    def _others(self) -> str:
        return "the other process was" if self._ranks.total == 2 else "the other processes were"

    def _look_for_hang(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        self._judge(self._observer.look(self._families()))

    def _judge(self, own: dict[int, RankState]) -> None:
        """End all if one of the ranks hangs, those of other nodes among them."""
        others = {} if self._workers is None else self._workers.ranks()
        hang = self._hangs.judge(None if others is None else own | others)
        if hang is None:
            return
        how = Exit(signal=signal.SIGKILL)
        if hang.rank is None:
            self.end_all(how, f"the {self._ranks.total} processes {hang.words}; they were ended")
        else:
            self.end_all(how, f"{self._name(hang.rank)} {hang.words}; {self._others} ended")
        self._kill_stopped()

    def _families(self) -> dict[int, list[Process]]:
        """The processes that run, each with its descendants, by rank."""
        ranks = {pid: self._rank_of[pid] for pid in self._running}
        families: dict[int, list[Process]] = {}
        for process in self._descendants():
            rank = ranks.get(process.pid, ranks.get(process.parent))
            if rank is not None:
                ranks[process.pid] = rank
                families.setdefault(rank, []).append(process)
        return families

    def _kill_stopped(self) -> None:
        """What is stopped heeds nothing but SIGKILL."""
        send_to_all([process for process in self._descendants() if process.is_stopped], signal.SIGKILL)

    def _close(self) -> None:
        super()._close()
        if self._progress is not None:
            self._progress.close()


class _LineLabel:
    """Puts a label before each line that comes in pieces, and gives whole lines only."""

    def __init__(self, label: bytes) -> None:
        self._label = label
        self._begun = b""
        self._is_after_return = False

    def take(self, data: bytes) -> bytes:
        """The lines that are whole with this piece."""
        lines = (self._begun + data).splitlines(keepends=True)
        # The end of a line can come in two pieces as well.
        end = lines.pop(0) if self._is_after_return and lines[0] == b"\n" else b""
        self._is_after_return = data.endswith(b"\r")
        self._begun = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        if len(self._begun) > _LONGEST_LINE_BYTES:
            lines.append(self._begun + b"\n")
            self._begun = b""
        return end + b"".join(self._label + line for line in lines)

    def rest(self) -> bytes:
        """The line whose end never came."""
        rest, self._begun = self._begun, b""
        return self._label + rest + b"\n" if rest else b""


def _ending_words(how: Exit) -> str:
    if how.signal is None:
        return f"failed with exit status {how.code}"
    try:
        name = signal.Signals(how.signal).name
    except ValueError:
        name = f"signal {how.signal}"
    return f"was ended by {name}"
