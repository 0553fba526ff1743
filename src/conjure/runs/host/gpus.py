"""Which GPUs this machine has, and which of them this process may use: by their numbers.

Main entry: `visible_gpus`. Invariant: no program and no library is asked, so it is quick.
"""

import os
import re
from pathlib import Path

_GPU_DEVICE = re.compile(r"nvidia\d+")

VISIBLE_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> tuple[int, ...]:
    """The GPUs this process may use, by their numbers."""
    named = os.environ.get(VISIBLE_GPUS_VARIABLE)
    every = tuple(range(gpu_count()))
    return every if named is None else tuple(gpu for gpu in gpus_named(named) if gpu in every)


def gpu_count(devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this machine (or container) can reach."""
    return sum(_GPU_DEVICE.fullmatch(entry.name) is not None for entry in devices.iterdir())


def gpus_named(text: str) -> tuple[int, ...]:
    """The GPUs that a list like ``0,2`` names; those named in another way (by UUID) are left out."""
    return tuple(int(name) for name in text.split(",") if name.strip().isdecimal())
