"""Facts about the machine and the software that figures were measured on.

Main entries: `facts`, `kind`, `versions`. Invariant: no host name, address or path is among them.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni")
_MAKERS = ("amd", "intel")
_FASTEST = {  # the first that is there says the most of speed
    "amx": "amx_int8",
    "avx512-bf16": "avx512_bf16",
    "avx512-vnni": "avx512_vnni",
    "avx512": "avx512f",
    "avx2": "avx2",
}
_PACKAGES = ("torch", "transformers", "accelerate", "ctranslate2", "llama-cpp-python", "numpy", "tokenizers")
_ASK = (
    "import importlib.metadata as m, json, sys\n"
    "print(json.dumps({p: m.version(p) for p in sys.argv[1:] if any(m.distributions(name=p))}))"
)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def facts(peers: Path, packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """The machine, and the versions of everything that was measured.

    Args:
        peers: The peers' Python.
        packages: What is measured of it.
    """
    flags = _cpu("flags").split()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _cpu("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "features": [feature for feature in _FEATURES if feature in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "conjure": metadata.version("conjure"),
        "versions": versions(peers, *packages),
        "gpu": _gpu(),
    }


def kind(machine: Mapping[str, Any]) -> str:
    """The kind of processor as it stands in file names: its maker and its fastest instructions."""
    maker = next((name for name in _MAKERS if name in machine["processor"].lower()), platform.machine())
    fastest = next((name for name, feature in _FASTEST.items() if feature in machine["features"]), None)
    return "-".join(part for part in (maker, fastest) if part)


def _cpu(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def versions(python: Path, *packages: str) -> dict[str, str]:
    """The versions of those packages that an environment has, given its Python."""
    if not python.exists():
        return {}
    answer = subprocess.run([python, "-c", _ASK, *packages], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def _gpu() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
