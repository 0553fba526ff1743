"""The processes that train one model together: what each does, and how they tell one another.

Main entries: `ProcessGroup`, which is a process by itself; `join`, which finds the others by the variables
that launchers of `torch.distributed` programs set. Every process has the whole model and the same optimizer;
each makes the gradients of its share of a step's micro-batches. Invariants: what the processes add up, they
add in an order that their number does not change (`pairwise_sum`), so that losses and weights are the same
bit for bit with one process and with many, at as many threads in each; and nothing but copying is left to the
library that connects them.
"""

import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from conjure.core.text import error_text
from conjure.errors import TrainingError, UsageError, option
from conjure.lm.training.distributed.pairwise_sum import PairwiseSum, partial_spans, share
from conjure.lm.training.distributed.progress_reports import ProgressReports
from conjure.rank_protocol import LISTEN_VARIABLE, PROGRESS_VARIABLE, ProgressReporter, inherited_descriptor

Gradients = list[Tensor]

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
_CONNECT_TIMEOUT = timedelta(minutes=5)
# While one process reads the text, or saves and samples, the others wait for it. That a process has died or
# hangs is found by whoever started them, and long before this.
_PREPARED_WITHIN = timedelta(days=1)
_STEP_WITHIN = timedelta(minutes=30)
_ENDED_WITHIN_S = 60.0  # after one process failed, whoever started the others has ended them long before
DTYPE = "dtype"  # of what processes prepare: the number format that they compute in
_FLOAT32 = option("precision", "float32")
_LOOPBACK = "127.0.0.1"
_SETTINGS, _FAILED, _FINISHED, _LEFT = "settings", "failed", "finished", "left"  # keys that they share


def add_gradients(left: Gradients, right: Gradients) -> Gradients:
    """Sums of gradients in any format, in float32; those on the left may be changed."""
    return [one.float().add_(other) for one, other in zip(left, right, strict=True)]


class PeerLostError(TrainingError):
    """Another process of the group is gone: it has failed, or was ended."""


class ProcessGroup:
    """A process that trains by itself; with others, see `ConnectedGroup`.

    Attributes:
        rank: Number of this process, from 0. Number 0 tells and saves what there is to tell and save.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that tells and saves."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's share of `count` pieces of work."""
        return share(count, self.rank, self.size)

    def gather(self, values: Sequence[float], count: int) -> list[float]:
        """The values that `count` pieces of work came to; `values` are those of this process's share."""
        assert len(values) == count
        return list(values)

    def any(self, *, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.gather([float(flag)], self.size))

    def total(self, sums: PairwiseSum[Gradients], like: Sequence[Tensor]) -> Gradients:
        """The gradients of a step, in every process.

        Args:
            sums: Those of this process's share of the micro-batches.
            like: Tensors of the gradients' shapes.
        """
        del like
        return sums.total

    def check_weights(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Compare the weights of all processes.

        Raises:
            TrainingError: They are not the same.
        """

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Compare what the processes prepared.

        Raises:
            TrainingError: It is not the same.
        """

    def settings_of_leader(self) -> dict[str, Any] | None:
        """What the first process prepared, once it has; None in that process itself."""
        return None

    def working(self, kind: Hashable) -> AbstractContextManager[None]:
        """Work that the others may wait for: `kind` tells what takes equally long each time."""
        del kind
        return nullcontext()

    def finish(self) -> None:
        """Wait until every process has what it needs of the others."""

    @contextmanager
    def told_once(self) -> Iterator[None]:
        """Let one process alone tell what went wrong; the others wait to be ended."""
        yield


@dataclass(frozen=True, slots=True)
class Membership:
    """This process's place among those that were started together, as its variables tell."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def from_environment(cls) -> "Membership | None":
        """What the variables say; None where they are not set."""
        values = [os.environ.get(name, "") for name in _VARIABLES]
        if not all(value.isdecimal() for value in values):
            return None
        rank, size, local_rank, port = map(int, values)
        return cls(rank, size, local_rank, os.environ.get("MASTER_ADDR", _LOOPBACK), port)


def join(processes: int | None, device: Callable[[], torch.device]) -> ProcessGroup:
    """Join the other processes of a training.

    Args:
        processes: How many there are to be; None for one that asks for no others.
        device: Tells where the model is trained.

    Raises:
        UsageError: This process was not started with that many.
        TrainingError: The others cannot be reached, or there are too few GPUs.
    """
    if processes is None:
        return ProcessGroup()
    membership = Membership.from_environment()
    if membership is None:
        if processes == 1:
            return ProcessGroup()
        raise UsageError(
            f"{option('distributed')} needs a run, which starts the processes",
            hint=f"leave out {option('no_run', True)}",
        )
    if membership.size != processes:
        raise UsageError(
            f"{option('distributed')} is {processes}, and {membership.size} processes were started"
        )
    return _connected(membership, device()) if processes > 1 else ProcessGroup()


def _connected(membership: Membership, device: torch.device) -> "ConnectedGroup":
    if not torch.distributed.is_available():
        raise TrainingError("this build of torch cannot connect processes: it has no torch.distributed")
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if membership.local_rank >= gpus:
            raise TrainingError(f"each process needs its own GPU, and this machine has {gpus}")
        torch.cuda.set_device(membership.local_rank)
    try:
        store = torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            membership.address,
            membership.port,
            is_master=membership.rank == 0,
            timeout=_CONNECT_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=inherited_descriptor(LISTEN_VARIABLE),
        )
        backend = _backend(store, membership, device)
    except (RuntimeError, OSError) as error:
        raise TrainingError(
            f"rank {membership.rank} of {membership.size} cannot reach the others at"
            f" {membership.address}:{membership.port}: {error_text(error).splitlines()[0]}"
        ) from error
    store.set_timeout(_PREPARED_WITHIN)
    reports = ProgressReports(ProgressReporter(membership.rank, inherited_descriptor(PROGRESS_VARIABLE)))
    return ConnectedGroup(backend, store, membership.rank, membership.size, device, reports)


def _backend(store: Any, membership: Membership, device: torch.device) -> Any:
    """What carries numbers between the processes: NCCL between GPUs, else gloo."""
    if device.type == "cuda":
        return torch.distributed.ProcessGroupNCCL(  # pyright: ignore[reportCallIssue]
            store, membership.rank, membership.size
        )
    gloo: Any = torch.distributed.ProcessGroupGloo  # its options have no type
    options = gloo._Options()
    # By itself it looks up the machine's own name, which may lead nowhere, or where others cannot reach it.
    options._devices = [gloo.create_device(hostname=_own_address(membership))]
    options._timeout = _STEP_WITHIN
    return gloo(store, membership.rank, membership.size, options)


def _own_address(membership: Membership) -> str:
    """This machine's address on the way to the first process."""
    [(family, _, _, _, place), *_] = socket.getaddrinfo(
        membership.address, membership.port, type=socket.SOCK_DGRAM
    )
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.connect(place)  # sends nothing
        return str(own.getsockname()[0])


class ConnectedGroup(ProcessGroup):
    """One of several processes that train together.

    Args of the constructor:
        backend: A backend of `torch.distributed`.
        store: What all processes can set and get values in.
        rank: Number of this process.
        size: Number of processes.
        device: Where the numbers are that are exchanged.
        reports: What tells the supervisor how this process gets on; None if nobody wants to know.
    """

    def __init__(
        self,
        backend: Any,
        store: Any,
        rank: int,
        size: int,
        device: torch.device,
        reports: ProgressReports | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self._backend, self._store, self._device = backend, store, device
        self._reports = reports if reports is not None else ProgressReports(ProgressReporter())

    def gather(self, values: Sequence[float], count: int) -> list[float]:
        """The values that `count` pieces of work came to; `values` are those of this process's share."""
        most = math.ceil(count / self.size)
        own = torch.zeros(most, dtype=torch.float64, device=self._device)
        own[: len(values)] = torch.tensor(values, dtype=torch.float64)
        rows = self._all_gather(own).tolist()
        return [value for rank, row in enumerate(rows) for value in row[: len(share(count, rank, self.size))]]

    def total(self, sums: PairwiseSum[Gradients], like: Sequence[Tensor]) -> Gradients:
        """The gradients of a step, in every process.

        Each process adds up one segment of all gradients, and tells the others what came out.

        Args:
            sums: Those of this process's share of the micro-batches.
            like: Tensors of the gradients' shapes.
        """
        spans = [partial_spans(sums.count, rank, self.size) for rank in range(self.size)]
        segment = math.ceil(sum(each.numel() for each in like) / self.size)
        buffer = torch.zeros(self.size * segment, dtype=torch.float32, device=self._device)
        views = _views(buffer, like)
        found: list[tuple[int, int, Tensor]] = []
        for number in range(max(map(len, spans))):
            if number < len(sums.partial):
                for view, gradient in zip(views, sums.partial[number][1], strict=True):
                    view.copy_(gradient)
            pieces = self._all_to_all(buffer)
            present = (rank for rank in range(self.size) if number < len(spans[rank]))
            found += [(rank, number, pieces[rank]) for rank in present]
        whole = PairwiseSum[Gradients](sums.count, add_gradients)
        for rank, number, piece in sorted(found, key=lambda each: each[:2]):
            whole.put(spans[rank][number], [piece])
        self._all_gather(whole.total[0], buffer)
        return views

    def check_weights(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Compare the weights of all processes.

        Raises:
            TrainingError: They are not the same.
        """
        own = torch.tensor([_digest(weights)], dtype=torch.int64, device=self._device)
        digests = self._all_gather(own).flatten().tolist()
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise TrainingError(
                f"after step {step} the weights of rank {others[0]} are not those of rank 0: the"
                " processes computed different results",
                hint="use one kind of processor and one version of torch for all, or fewer processes",
            )

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Compare what the processes prepared.

        Raises:
            TrainingError: It is not the same.
        """
        own = json.dumps(settings)
        first = self.settings_of_leader()
        if first is None:
            self._store.set(_SETTINGS, own)
            return
        for name, value in json.loads(own).items():
            if first.get(name) != value:
                raise TrainingError(
                    f"rank {self.rank} prepared a different training than rank 0: {name} is {value!r} and"
                    f" {first.get(name)!r}",
                    hint=f"choose one that all nodes use: {_FLOAT32}" if name == DTYPE else None,
                )

    def settings_of_leader(self) -> dict[str, Any] | None:
        """What the first process prepared, once it has; None in that process itself."""
        with self._waiting():
            return None if self.leads else json.loads(self._store.get(_SETTINGS))

    def working(self, kind: Hashable) -> AbstractContextManager[None]:
        """Work that the others may wait for: `kind` tells what takes equally long each time."""
        return self._reports.working(kind)

    def finish(self) -> None:
        """Wait until every process has what it needs of the others."""
        with self._waiting():
            if self.leads:
                self._store.set(_FINISHED, "")
                # The first process keeps what is shared: it must not end before the others have read it.
                self._store.wait([f"{_LEFT}{rank}" for rank in range(1, self.size)])
            else:
                self._store.get(_FINISHED)
                self._store.set(f"{_LEFT}{self.rank}", "")
        self._reports.end()

    @contextmanager
    def told_once(self) -> Iterator[None]:
        """Let one process alone tell what went wrong; the others wait to be ended."""
        try:
            yield
        except PeerLostError:
            time.sleep(_ENDED_WITHIN_S)
            raise
        except Exception:
            if not self._is_first_to_fail():
                time.sleep(_ENDED_WITHIN_S)
                raise SystemExit(1) from None
            raise

    def _is_first_to_fail(self) -> bool:
        try:
            return self._store.add(_FAILED, 1) == 1
        except RuntimeError:  # the first process, which keeps the count, is gone
            return True

    def _all_gather(self, own: Tensor, into: Tensor | None = None) -> Tensor:
        """The tensors of all processes, one a row."""
        rows = own.new_empty(self.size * own.numel()) if into is None else into
        with self._waiting():
            self._backend._allgather_base(rows, own.contiguous()).wait()
            self._synchronize()
        return rows.view(self.size, -1)

    def _all_to_all(self, own: Tensor) -> Tensor:
        """The segments of all processes that have this process's number, one a row."""
        rows = torch.empty_like(own)
        with self._waiting():
            self._backend.alltoall_base(rows, own, [], []).wait()
            self._synchronize()
        return rows.view(self.size, -1)

    def _synchronize(self) -> None:
        """On a GPU, wait for what was only queued until here, so that it counts as waiting for the others."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Wait for the others, turning the errors of a broken connection into one sentence."""
        try:
            with self._reports.waiting():
                yield
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise PeerLostError(
                f"the connection to another process of the training is lost: {reason}"
            ) from error


def _views(buffer: Tensor, like: Sequence[Tensor]) -> Gradients:
    """Parts of a buffer in the shapes of other tensors, one after the other."""
    views, start = [], 0
    for tensor in like:
        views.append(buffer[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
    return views


def _digest(weights: Mapping[str, Tensor]) -> int:
    """A number of 63 bits that tells weights from others."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(digest.digest()) >> 1
