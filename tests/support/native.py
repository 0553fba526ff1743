"""The native engine with each of its instruction sets, where the processor has them."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conjure.errors import UsageError
from conjure.lm.native import library
from conjure.lm.native.library import Status, status


def native_status(instructions: str, monkeypatch: pytest.MonkeyPatch) -> Status:
    """The status of the engine forced to these instructions; skips the test where it cannot be."""
    monkeypatch.setenv(library.VARIABLE, instructions)
    try:
        found = status()
    except UsageError as error:
        pytest.skip(str(error))
    if found.library is None:
        pytest.skip(found.reason)
    return found


@functools.cache
def emulated_tiles(base: str) -> tuple[Status, Status]:
    """AMX as plain C beside another instruction set, and that one alone, in one library.

    Args:
        base: One of `INSTRUCTIONS`; the processor must have it.
    """
    loaded = build_emulated_tiles(library_sources(), base)
    loaded.conjure_forward.argtypes = [ctypes.POINTER(kind) for kind in (library.Model, library.Call)]
    return Status(loaded, "amx", "emulated"), Status(loaded, base, "beside tiles")


@contextmanager
def trapped_amx() -> Iterator[None]:
    """AMX instructions are executed by a handler of the signal that a processor without AMX raises."""
    source = Path(__file__).with_name("amx_trap.c")
    trap = _build(source, "-DCONJURE_EMULATED_TILES=portable", f"-I{library_sources()}")
    trap.install()
    try:
        yield
    finally:
        trap.uninstall()


def library_sources() -> Path:
    """The folder of the native engine's sources."""
    return Path(library.__file__).parent


def build_emulated_tiles(sources: Path, base: str, *more: str) -> ctypes.CDLL:
    """The forward pass with emulated tiles, compiled with ``CFLAGS`` and `more` options."""
    return _build(sources / "forward.c", f"-DCONJURE_EMULATED_TILES={base}", *more)


def _build(source: Path, *options: str) -> ctypes.CDLL:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        pytest.skip("needs a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "built.so")
        flags = ["-std=gnu11", "-O1", "-fopenmp", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
        flags += [*os.environ.get("CFLAGS", "").split(), *options]
        build = [compiler, *flags, "-shared", "-fPIC", "-o", built, source, "-lm"]
        variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        subprocess.run(build, check=True, timeout=600, env=variables)
        return ctypes.CDLL(str(built))
