"""What this machine can do at most: bytes read and numbers multiplied in a second.

Memory is read by libc's ``memchr``, which does nothing but read, in one thread for each core.
"""

import ctypes
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from exchange import answer, task

_READ_BYTES = 4 << 30
_TRIES = 5


def bandwidth(threads: int) -> float:
    """Bytes per second of a single pass over memory that no cache holds."""
    size = min(_READ_BYTES, psutil.virtual_memory().available // 3) // threads * threads
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # others get no huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.memset(start, 2, size)  # pages that were never written are all the same one
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    share = size // threads
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            assert not any(pool.map(lambda part: memchr(start + part * share, 1, share), range(threads)))

        return size / min(_seconds(read) for _ in range(_TRIES))


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
    _seconds(multiply)  # the first time is slower
    return 2 * size**3 / min(_seconds(multiply) for _ in range(_TRIES))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    assigned = task()
    size = assigned["matrix"]
    answer(
        memory_bandwidth=bandwidth(assigned["threads"]),
        matrix_float32=matrix_rate(torch.float32, size),
        matrix_bfloat16=matrix_rate(torch.bfloat16, size),
        matrix_int8=matrix_rate(torch.int8, size),
    )


if __name__ == "__main__":
    main()
