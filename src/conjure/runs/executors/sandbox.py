"""What a sandboxed command sees of the machine, and the bubblewrap command line that makes it so.

Main entries: `Sandbox`, `bwrap_arguments`, `sandbox_fault`. Invariant: everything is read-only but what is
named writable and the private folders; a folder named hidden is empty but for what is named below it. No
service of the machine can be reached by a socket that has a path here.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import NamedTuple

from conjure.core.text import error_text
from conjure.errors import UsageError, option

_BWRAP = "bwrap"
_TIMEOUT_S = 10
_MOST_LINKS = 40  # as the kernel: more are a circle
_GPU_DEVICES = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - inside the sandbox, where it is private
_OPEN_TO_ALL = ("/tmp", "/var/tmp")  # noqa: S108 - as above

# The kernel's own separations; CAP_* are taken away because root would otherwise keep them.
_SEPARATED = ("--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL")
# Parts of /proc that root may write to without any capability; bubblewrap leaves some of them as they are.
_KERNEL_FILES = tuple(
    f"/proc/{name}" for name in ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
)
_SYSTEM = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")


class Sandbox(NamedTuple):
    """What a command sees; the rest of the machine is there, read-only.

    Attributes:
        hidden: Folders that are private and empty.
        sealed: Those of them that nothing can be written into.
        readable: Files and folders that are shown read-only although they lie in a hidden folder.
        writable: Files and folders that can be written to.
        sockets: Those of services; what can be seen of them elsewhere is covered.
        network: Whether the network can be reached.
    """

    hidden: tuple[Path, ...]
    sealed: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    sockets: tuple[Path, ...] = ()
    network: bool = False

    def shows(self, path: Path) -> bool:
        """Whether a path of this machine can be seen in the sandbox."""
        layers = {layer.path: layer for layer in _layers(self)}
        return _cover(_follow(path, {}), layers) != _HIDE


def sandbox_fault() -> str | None:
    """Why commands cannot be sandboxed here, in words; None if they can."""
    program = shutil.which(_BWRAP)
    if program is None:
        return "bubblewrap is not installed"
    trial = [program, *_SEPARATED, "--unshare-net", *_SYSTEM, "--tmpfs", _OPEN_TO_ALL[0], "true"]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap cannot run here: {error_text(error)}"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()[:1] or [f"exit status {done.returncode}"]
    return f"bubblewrap cannot run here: {said[0].removeprefix('bwrap: ')}"


def require_sandbox() -> None:
    """Make sure that commands can be sandboxed here.

    Raises:
        UsageError: They cannot; the message says why.
    """
    fault = sandbox_fault()
    if fault is not None:
        missing = shutil.which(_BWRAP) is None
        raise UsageError(
            f"{option('sandbox')}: {fault}",
            hint="install the package bubblewrap" if missing else "allow user namespaces on this machine",
        )


def bwrap_arguments(
    sandbox: Sandbox, arguments: Iterable[str], folder: Path, status_descriptor: int
) -> list[str]:
    """The command line that carries out `arguments` in `folder` inside the sandbox.

    Args:
        sandbox: What the command sees.
        arguments: The command.
        folder: Where it starts.
        status_descriptor: Gets bubblewrap's status as JSON, with ``exit-code`` if the command was started.
    """
    devices = [word for name in _gpu_devices() for word in ("--dev-bind-try", name, name)]
    return [
        shutil.which(_BWRAP) or _BWRAP,
        *_SEPARATED,
        *([] if sandbox.network else ["--unshare-net"]),
        *_SYSTEM,
        *(word for name in _KERNEL_FILES for word in ("--ro-bind-try", name, name)),
        *devices,
        *_private_folder(_SHARED_MEMORY, shared=True),
        *(word for layer in _layers(sandbox) for word in layer.words),
        *(word for path in _reachable_sockets(sandbox) for word in ("--ro-bind", os.devnull, str(path))),
        *(word for path in sandbox.sealed for word in ("--remount-ro", str(path))),
        "--chdir",
        str(folder),
        "--json-status-fd",
        str(status_descriptor),
        "--",
        *arguments,
    ]


def real_folders(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    """The folders that the paths lead to, each once; what is none is left out, and so is the root."""
    found = (Path(os.path.realpath(path)) for path in paths)
    return tuple(dict.fromkeys(path for path in found if path.is_dir() and path != Path("/")))


def _gpu_devices() -> list[str]:
    return [name for pattern in _GPU_DEVICES for name in sorted(glob(pattern))]  # noqa: PTH207 - absolute


def _reachable_sockets(sandbox: Sandbox) -> list[Path]:
    """Those that could be connected to: a mount that is read-only does not prevent it."""
    layers = {layer.path: layer for layer in _layers(sandbox)}
    return [
        path
        for path in sandbox.sockets
        if not path.is_relative_to("/dev") and _cover(path, layers) not in (_HIDE, _OPEN)
    ]


# ---- the layers of the file system -------------------------------------------------------------------------

_HIDE, _SHOW, _OPEN, _LINK = "hide", "show", "open", "link"


class _Layer(NamedTuple):
    """A mount, or a symbolic link, over what lies below it."""

    path: Path
    kind: str
    target: str = ""

    @property
    def words(self) -> list[str]:
        path = str(self.path)
        if self.kind == _HIDE:
            return _private_folder(path, shared=path in _OPEN_TO_ALL)
        if self.kind == _LINK:
            return ["--symlink", self.target, path]
        return ["--ro-bind" if self.kind == _SHOW else "--bind", path, path]


def _private_folder(path: str, *, shared: bool) -> list[str]:
    return ["--perms", "1777" if shared else "0700", "--tmpfs", path]


@lru_cache(maxsize=1)  # it is asked for twice: what can be seen, and how to make it so
def _layers(sandbox: Sandbox) -> tuple[_Layer, ...]:
    """The mounts in the order in which they are made: what lies deeper comes later, and so lies on top."""
    layers = {path: _Layer(path, _HIDE) for path in sandbox.hidden}
    wanted, links = set(), {}
    for paths, kind in ((sandbox.writable, _OPEN), (sandbox.readable, _SHOW)):
        for path in paths:
            real = _follow(path, links)
            if real not in sandbox.hidden:  # it stays hidden, whoever would like to read all of it
                wanted.add((real, kind))
    for path, kind in sorted(wanted, key=lambda each: (len(each[0].parts), each[1])):
        if (kind == _OPEN or _cover(path, layers) == _HIDE) and path.exists():
            layers[path] = _Layer(path, kind)
    for link, target in links.items():
        if _cover(link, layers) == _HIDE:
            layers[link] = _Layer(link, _LINK, target)
    return tuple(sorted(layers.values(), key=lambda layer: len(layer.path.parts)))


def _cover(path: Path, layers: Mapping[Path, _Layer]) -> str | None:
    """The kind of the deepest layer that a path lies on; None for what is simply the machine's."""
    return next((layers[each].kind for each in (path, *path.parents) if each in layers), None)


def _follow(path: Path, links: dict[Path, str]) -> Path:
    """The real place of a path; the symbolic links on the way are noted, each with what it says."""
    rest = os.path.abspath(path).split("/")[:0:-1]  # noqa: PTH100 - resolves no links
    here, count = "", 0
    while rest and count < _MOST_LINKS:
        step = f"{here}/{rest.pop()}"
        try:
            target = os.readlink(step)  # noqa: PTH115 - as it is written
        except OSError:  # no link
            here = step
            continue
        links[Path(step)] = target
        count += 1
        rest += os.path.normpath(f"{here}/{target}" if target[:1] != "/" else target).split("/")[:0:-1]
        here = ""
    return Path(here or "/", *reversed(rest))
