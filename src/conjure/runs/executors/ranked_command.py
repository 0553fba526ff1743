"""Carrying out a command by several processes that work together, as programs of `torch.distributed` do.

Main entry: `start_ranked`. Each process is told its place among them by the variables that such programs
read. Invariant: they end together: when one fails, or is stopped so that the others wait for it, all are
ended within ten seconds, and the exit is that of the one that failed first.
"""

import math
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from conjure.runs.executors.command import Exit, Job, Ranks
from conjure.runs.executors.command_process import CommandProcess, open_process, send_to_all, usage_meter
from conjure.runs.host.process import Process
from conjure.runs.host.process_marks import ProcessMarks
from conjure.runs.host.process_usage import UsageMeter

_HUNG_AFTER_S = 4.0
_LOOK_EVERY_S = 0.5
_GRACE_S = 3.0
_QUIET_TORCH = ("TORCH_CPP_LOG_LEVEL", "FATAL")  # lest it add pages to what conjure says of an error
_LONGEST_LINE_BYTES = 1 << 16  # longer ones are broken up
_ADDRESS = "127.0.0.1"


def start_ranked(
    job: Job, exclude: Callable[[Process], bool], marks: ProcessMarks | None = None
) -> CommandProcess:
    """As `start_command`, once for each of the job's ranks.

    Raises:
        NotStartedError: There is no such program, or it cannot be run.
    """
    assert job.ranks is not None
    port = _free_port()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(job.ranks.count):
            variables = {**job.variables, **rank_variables(rank, job.ranks.count, port)}
            if not job.ranks.labelled:
                variables.setdefault(*_QUIET_TORCH)
            started.append(open_process(replace(job, variables=variables), job.arguments, marks))
    except BaseException:
        for process in started:
            process.kill()
        raise
    return RankedProcesses(started, exclude, usage_meter(job), marks, job.ranks)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        return probe.getsockname()[1]


class RankedProcesses(CommandProcess):
    """The processes of a command (see `command.Execution`).

    Args:
        processes: In the order of their ranks.
        ranks: What was asked.
    """

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[bytes]],
        exclude: Callable[[Process], bool],
        meter: UsageMeter,
        marks: ProcessMarks | None,
        ranks: Ranks,
    ) -> None:
        super().__init__(processes, exclude, meter, marks)
        self._rank_of = {process.pid: rank for rank, process in enumerate(processes)}
        self._are_conjures = not ranks.labelled
        self._grace_s = 0.0 if self._are_conjures else _GRACE_S
        self._failed: Exit | None = None
        self._is_to_end = False
        self._kill_at, self._next_look = math.inf, 0.0
        self._stopped_since: dict[int, float] = {}
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
        elif not self._is_to_end:
            self._look_for_stopped()

    def _fail(self, rank: int, how: Exit, words: str | None = None) -> None:
        """End the others, because one has failed."""
        if self._failed is not None:
            return
        if words is None:
            words = _ending_words(how)
        count = len(self._rank_of)
        message = None
        # What fails with an exit code has said why itself, if it is a command of conjure's own.
        says_why = self._are_conjures and how.signal is None
        if count > 1 and not self._is_to_end and not says_why:
            message = f"rank {rank} of {count} {words}; {_others(count)} ended"
        self._failed = replace(how, message=message)
        if not self._is_to_end:
            self._kill_at = time.monotonic() + self._grace_s
            self._signal_group(signal.SIGTERM if self._grace_s else signal.SIGKILL)

    def _look_for_stopped(self) -> None:
        """End all if some have been stopped for a while; if all are, somebody has paused them."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        stopped = set(self._stopped())
        if len(stopped) == len(self._running):
            stopped.clear()
        self._stopped_since = {rank: self._stopped_since.get(rank, now) for rank in sorted(stopped)}
        for rank, since in self._stopped_since.items():
            if now - since >= _HUNG_AFTER_S:
                self._fail(rank, Exit(signal=signal.SIGKILL), "hangs: it was stopped by a signal")
                self._kill_stopped()
                return

    def _stopped(self) -> Iterator[int]:
        """Ranks of which a process is stopped, as by SIGSTOP."""
        ranks = dict(self._rank_of)
        for process in self._descendants():
            rank = ranks.get(process.pid, ranks.get(process.parent))
            if rank is not None:
                ranks[process.pid] = rank
                if process.is_stopped:
                    yield rank

    def _kill_stopped(self) -> None:
        """What is stopped heeds nothing but SIGKILL."""
        send_to_all([process for process in self._descendants() if process.is_stopped], signal.SIGKILL)


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


def _others(count: int) -> str:
    return "the other process was" if count == 2 else "the other processes were"
