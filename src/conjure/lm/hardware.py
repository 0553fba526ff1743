"""This machine's device, fastest number format and memory.

Main entries: `pick_device`, `fast_dtype`, `available_bytes`, `usable_cores`. Invariant: everything here only
looks, except `keep_freed_memory`, which tunes this process's allocator; torch is imported by those functions
alone that speak of its devices and dtypes.
"""

import ctypes
import functools
import os
import platform
import resource
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from conjure.core.machine_limits import cpu_limit, free_memory_bytes, physical_cores, usable_processors
from conjure.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISION_VARIABLE = "CONJURE_PRECISION"
_WORTH_COMPILING = 2e16
PRECISIONS = ("auto", "float32", "bfloat16")
_GPU_DEVICES = ("nvidiactl", "nvidia0", "kfd", "dxg")  # in /dev, one of which a GPU's driver makes

# glibc's names for mallopt (malloc.h): give nothing below this size to mmap, and trim nothing above it.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_HEAP_BLOCK = 1 << 30


def pick_device() -> "torch.device":
    """The GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_is_there() -> bool:
    """Whether torch finds a GPU; where no driver has left a device file, torch is not asked."""
    if find_spec("torch") is None or not any(Path("/dev", name).exists() for name in _GPU_DEVICES):
        return False
    return pick_device().type != "cpu"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Feature names the processor reports; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


@functools.cache
def cpu_vendor() -> str:
    """Who made the processor, as it says itself (``GenuineIntel``, ``AuthenticAMD``); empty if not told."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith("vendor_id"))
    return next(lines, "").partition(":")[2].strip()


def fast_dtype(device: "torch.device", precision: str = "auto") -> "torch.dtype":
    """The number format for training on `device`.

    Args:
        device: Where the model is.
        precision: ``float32`` or ``bfloat16`` take that; ``auto`` takes what ``CONJURE_PRECISION`` says, else
            bfloat16 where the hardware multiplies it fast (AMX, AVX512-BF16, Arm BF16, GPUs since Ampere).

    Raises:
        UsageError: Another word than these.
    """
    import torch

    chosen = chosen_precision(precision)
    if chosen == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return getattr(torch, chosen)


def chosen_precision(precision: str) -> str:
    """``float32``, ``bfloat16`` or ``auto``: what was asked for, or ``CONJURE_PRECISION`` for ``auto``.

    An empty variable counts as one that is not set.

    Raises:
        UsageError: Another word than these.
    """
    chosen = (os.environ.get(PRECISION_VARIABLE) or "auto") if precision == "auto" else precision
    if chosen not in PRECISIONS:
        raise UsageError(f"precision is {chosen!r}; allowed: {', '.join(PRECISIONS)}")
    return chosen


def worth_compiling(device: "torch.device", operations: float) -> bool:
    """Whether torch's compiler, which fuses kernels on a GPU, gains more time than it takes.

    Args:
        device: Where the work is done.
        operations: Floating-point operations of all of it: from 2e16, some minute of one H100 (not measured).
    """
    return device.type == "cuda" and find_spec("triton") is not None and operations >= _WORTH_COMPILING


def _multiplies_bfloat16(device: "torch.device") -> bool:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16", "bf16"})


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks, so that each step's temporaries are not page-faulted in anew.

    Without it a training step of a 124M-parameter model spends a third of its time in the kernel, clearing
    pages for tensors that the step before had just given back. Does nothing on other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_HEAP_BLOCK)


def available_bytes(device: "torch.device") -> int:
    """Memory this process may still take on `device`; control-group and process limits are heeded."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return min(psutil.virtual_memory().available, free_memory_bytes(), _address_space_free_bytes())


def _address_space_free_bytes() -> int:
    """What the process's limit of address space (``ulimit -v``) leaves; very much without one."""
    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, limit - psutil.Process().memory_info().vms)


@functools.cache
def usable_cores() -> int:
    """Cores this process may keep busy: ``OMP_NUM_THREADS`` or torch's threads, affinity and group limits."""
    return max(1, min(_threads_wanted(), len(usable_processors()), int(cpu_limit())))


def _threads_wanted() -> int:
    """What torch computes with where it is loaded, else what it would: one thread for each core."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else physical_cores()
