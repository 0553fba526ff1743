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
from collections.abc import Callable, Sequence
from dataclasses import replace

from conjure.rank_protocol import LISTEN_VARIABLE, PROGRESS_VARIABLE, ProgressFile
from conjure.runs.executors.command import Exit, Job, Ranks
from conjure.runs.executors.command_process import CommandProcess, open_process, send_to_all, usage_meter
from conjure.runs.host.hang_detector import HangDetector
from conjure.runs.host.process import Process
from conjure.runs.host.process_marks import ProcessMarks
from conjure.runs.host.process_usage import UsageMeter

_LOOK_EVERY_S = 0.5
_GRACE_S = 3.0
_STOPPING_S = 5.0  # for the others to save, if one fails while all were asked to end
_QUIET_TORCH = ("TORCH_CPP_LOG_LEVEL", "FATAL")  # lest it add pages to what conjure says of an error
_LONGEST_LINE_BYTES = 1 << 16  # longer ones are broken up
_ADDRESS = "127.0.0.1"
_IS_LINUX = hasattr(os, "memfd_create")  # elsewhere, processes cannot be looked at either


def start_ranked(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> CommandProcess:
    """As `start_command`, once for each of the job's ranks.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    ranks = job.ranks
    assert ranks is not None
    progress = ProgressFile(ranks.count) if not ranks.labelled and _IS_LINUX else None
    started: list[subprocess.Popen[bytes]] = []
    try:
        with socket.socket() as listener:
            listener.bind((_ADDRESS, 0))
            port = listener.getsockname()[1]
            if ranks.labelled:
                listener.close()  # scripts open the port themselves
            for rank in range(ranks.count):
                variables = {**job.variables, **rank_variables(rank, ranks.count, port)}
                given = {} if ranks.labelled else _given_descriptors(rank, listener, progress)
                variables |= {name: str(descriptor) for name, descriptor in given.items()}
                if not ranks.labelled:
                    variables.setdefault(*_QUIET_TORCH)
                ranked = replace(job, variables=variables)
                started.append(open_process(ranked, job.arguments, marks, tuple(given.values())))
    except BaseException:
        for process in started:
            process.kill()
        if progress is not None:
            progress.close()
        raise
    return RankedProcesses(started, exclude, usage_meter(job), marks, ranks, progress)


def _given_descriptors(rank: int, listener: socket.socket, progress: ProgressFile | None) -> dict[str, int]:
    """What a process of a command of conjure's own is given open, by the variables that tell it."""
    given = {} if progress is None else {PROGRESS_VARIABLE: progress.descriptor}
    if rank == 0:
        given[LISTEN_VARIABLE] = listener.fileno()
    return given


def rank_variables(rank: int, count: int, port: int) -> dict[str, str]:
    """What a process is told of its place, as PyTorch's own launcher does."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": _ADDRESS,
        "MASTER_PORT": str(port),
    }


class RankedProcesses(CommandProcess):
    """The processes of a command (see `command.Execution`).

    Args:
        processes: In the order of their ranks.
        ranks: What was asked.
        progress: What the processes report; None if they do not.
    """

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[bytes]],
        exclude: Callable[[Process], bool],
        meter: UsageMeter,
        marks: ProcessMarks | None,
        ranks: Ranks,
        progress: ProgressFile | None,
    ) -> None:
        super().__init__(processes, exclude, meter, marks)
        self._rank_of = {process.pid: rank for rank, process in enumerate(processes)}
        self._are_conjures = not ranks.labelled
        self._grace_s = 0.0 if self._are_conjures else _GRACE_S
        self._failed: Exit | None = None
        self._is_to_end = False
        self._kill_at, self._next_look = math.inf, 0.0
        self._progress = progress
        self._hangs = HangDetector(progress)
        self._labels = {
            pipe.fileno(): _LineLabel(f"[{rank}] ".encode())
            for rank, process in enumerate(processes)
            for pipe in (process.stdout, process.stderr)
            if pipe is not None and ranks.labelled
        }

    def terminate(self) -> None:
        """SIGTERM to the processes' groups: they may end one after the other."""
        self._is_to_end = True
        super().terminate()

    def _read_pipe(self, pipe: int) -> bytes:
        label = self._labels.get(pipe)
        if label is None:
            return super()._read_pipe(pipe)
        while data := super()._read_pipe(pipe):
            if labelled := label.take(data):
                return labelled
        return b"" if self._is_open(pipe) else label.rest()

    def _look_for_end(self) -> None:
        for pid, code in sorted(
            self._take_ended().items(),
            key=lambda each: (each[1] >= 0, self._rank_of[each[0]]),  # killed ones first: others follow
        ):
            if code != 0:
                self._fail(self._rank_of[pid], self._exit_from(code))
        if not self._running:
            self._main_exit = self._failed if self._failed is not None else Exit(code=0)
        elif self._failed is not None:
            if time.monotonic() >= self._kill_at:
                send_to_all(self._descendants(), signal.SIGKILL)
        elif self._are_conjures or not self._is_to_end:
            self._look_for_hang()

    def _fail(self, rank: int, how: Exit) -> None:
        """End the others, because one has failed."""
        # What fails with an exit code has said why itself, if it is a command of conjure's own.
        says_why = self._are_conjures and how.signal is None
        if len(self._rank_of) == 1 or self._is_to_end or says_why:
            self._end_all(how)
        else:
            self._end_all(how, f"{self._name(rank)} {_ending_words(how)}; {self._others} ended")

    def _end_all(self, how: Exit, message: str | None = None) -> None:
        if self._failed is not None:
            return
        self._failed = replace(how, message=message)
        now = time.monotonic()
        if not self._is_to_end:
            self._kill_at = now + self._grace_s
            self._signal_group(signal.SIGTERM if self._grace_s else signal.SIGKILL)
        elif self._are_conjures:  # which cannot go on without one of them
            self._kill_at = now + _STOPPING_S

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {len(self._rank_of)}"

    @property
    def _others(self) -> str:
        return "the other process was" if len(self._rank_of) == 2 else "the other processes were"

    def _look_for_hang(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        hang = self._hangs.look(self._families())
        if hang is None:
            return
        count, how = len(self._rank_of), Exit(signal=signal.SIGKILL)
        if hang.rank is None:
            self._end_all(how, f"the {count} processes {hang.words}; they were ended")
        else:
            self._end_all(how, f"{self._name(hang.rank)} {hang.words}; {self._others} ended")
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
        return f"failed with exit code {how.code}"
    try:
        name = signal.Signals(how.signal).name
    except ValueError:
        name = f"signal {how.signal}"
    return f"was ended by {name}"
