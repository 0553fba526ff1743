"""What this machine can do at most: bytes read and numbers multiplied in a second.

Both are measured by loops in C (ceilings.c) that do nothing else, one thread for each core. Where torch's own
product of square matrices is faster than the loops, because it knows an instruction that they do not, that
counts.
"""

import ctypes
import mmap
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from exchange import answer, task

_SOURCE = Path(__file__).with_suffix(".c")
_TRIES = 5
_LOOPS = {
    "float32": ("avx2", "avx512"),
    "bfloat16": ("avx512", "amx"),
    "int8": ("avx2", "avx512_vnni", "amx"),
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_STEPS = 1_000_000  # of a loop: some hundredths of a second
_READ_BYTES = 1 << 30  # in one try: a small block is read again and again
_ALIGNMENT = 512


class Machine:
    """The loops in C, each run by all threads at once."""

    def __init__(self, threads: int) -> None:
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "ceilings.so"
            compiler = ["cc", "-O3", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
            subprocess.run(compiler, check=True)
            self._loops = ctypes.CDLL(str(library))
        self._loops.read_bytes.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
        self._loops.read_bytes.restype = None

    def bandwidth(self, size: int) -> float:
        """Bytes per second when the same `size` bytes are read again and again, each thread its share."""
        share = max(_ALIGNMENT, size // self._threads // _ALIGNMENT * _ALIGNMENT)
        times = max(1, _READ_BYTES // (share * self._threads))
        memory = mmap.mmap(-1, share * self._threads, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.memset(start, 2, len(memory))  # pages that were never written are all the same one

        def read() -> None:
            self._at_once(lambda part: self._loops.read_bytes(start + part * share, share, times))

        return len(memory) * times / _least_seconds(read)

    def multiplication_rate(self, kind: str) -> float:
        """Operations per second of the fastest loop for this number format; 0 where there is none."""
        return max(self._loop_rate(f"multiply_{kind}_{instructions}") for instructions in _LOOPS[kind])

    def _loop_rate(self, name: str) -> float:
        loop = getattr(self._loops, name)
        loop.argtypes, loop.restype = (ctypes.c_int64,), ctypes.c_double
        operations = loop(1) * _STEPS * self._threads
        return operations and operations / _least_seconds(lambda: self._at_once(lambda _: loop(_STEPS)))

    def _at_once(self, work: Callable[[int], object]) -> None:
        list(self._pool.map(work, range(self._threads)))


def matrix_rate(dtype: torch.dtype, size: int) -> float:
    """Operations per second of a square matrix product, by the fastest of torch's ways."""
    left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    if dtype == torch.int8:
        return _rate(lambda: torch._int_mm(left, right), size)
    rate = _rate(lambda: left @ right, size)
    if dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        # On some processors half as fast again as the library behind `@`.
        onednn = torch.ops.mkldnn._linear_pointwise
        rate = max(rate, _rate(lambda: onednn(left, right, None, "none", [], ""), size))
    return rate


def _rate(multiply: Callable[[], object], size: int) -> float:
    multiply()  # the first time is slower
    return 2 * size**3 / _least_seconds(multiply)


def _least_seconds(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(_TRIES))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    assigned = task()
    machine = Machine(assigned["threads"])
    bandwidths = {name: machine.bandwidth(size) for name, size in assigned["read_bytes"].items()}
    products = {kind: matrix_rate(dtype, assigned["matrix"]) for kind, dtype in _DTYPES.items()}
    answer(
        **bandwidths,
        **{f"matrix_{kind}": rate for kind, rate in products.items()},
        **{f"rate_{kind}": max(machine.multiplication_rate(kind), products[kind]) for kind in _DTYPES},
    )


if __name__ == "__main__":
    main()
