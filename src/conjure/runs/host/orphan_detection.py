"""What a run's processes are known by after its supervisor and guard were both killed.

While both live, every process of a run is a descendant of theirs. Afterwards it is known by what the
supervisor wrote down while it could: the control group the command was started in, the pipes that it writes
to, the sessions its processes were seen in.

Main entries: `ProcessMarks` (written by the supervisor), `find_marked` (read by who closes the run).
Invariant: marks of another boot mean nothing, and a session is recognised only while its leader, if it has
one, is the process it was.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from conjure.core.dir_fd import Folder
from conjure.core.files import parse_json
from conjure.runs.host.cgroup import make_cgroup, processes_in, remove_cgroup
from conjure.runs.host.process import Process, all_processes, boot_id
from conjure.runs.schema.run_folder import MARKS_FILE

_PROC = Path("/proc")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclass(slots=True)
class ProcessMarks:
    """The marks of one run's processes, kept in its folder while its command runs.

    Attributes:
        folder: The run's folder, open.
        cgroup: The control group the command is started in, or None where there is none.
    """

    folder: Folder
    cgroup: Path | None = None
    _pipes: set[int] = field(default_factory=set)
    _sessions: dict[int, str | None] = field(default_factory=dict)

    def begin(self, cgroup_name: str) -> None:
        """Have a control group ready for the command that is about to be started."""
        self.cgroup = make_cgroup(cgroup_name)

    def note_pipes(self, descriptors: Iterable[int]) -> None:
        """Remember the pipes that the command was given to write to, but for those that have names.

        A named pipe has its number from the disk, so a pipe of another program may have the same.
        """
        unnamed = (each for each in descriptors if _description(each).startswith("pipe:"))
        self._pipes = {os.fstat(descriptor).st_ino for descriptor in unnamed}
        self._write()

    def note_sessions(self, processes: Iterable[Process]) -> None:
        """Remember the sessions that the run's processes are in now; those that have ended are forgotten."""
        processes = list(processes)
        leaders = {process.pid: process.started for process in processes}
        seen: dict[int, str | None] = {
            process.session: leaders.get(process.session, self._sessions.get(process.session))
            for process in processes
        }
        if seen != self._sessions:
            self._sessions = seen
            self._write()

    def end(self) -> None:
        """Nothing is left of the run: forget the marks."""
        with suppress(OSError):
            os.unlink(MARKS_FILE, dir_fd=self.folder.descriptor)
        if self.cgroup is not None:
            remove_cgroup(self.cgroup)

    def _write(self) -> None:
        content = {
            "boot_id": boot_id(),
            "cgroup": None if self.cgroup is None else str(self.cgroup),
            "pipes": sorted(self._pipes),
            "sessions": {str(session): started for session, started in self._sessions.items()},
        }
        folder, temporary = self.folder.descriptor, f".{MARKS_FILE}.new"
        with suppress(OSError):  # a full disk; and not synced, for a power cut ends the processes too
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            with os.fdopen(os.open(temporary, _CREATE, 0o600, dir_fd=folder), "w") as file:
                json.dump(content, file)
            os.replace(temporary, MARKS_FILE, src_dir_fd=folder, dst_dir_fd=folder)


def find_marked(folder: Path) -> list[Process]:
    """Living processes that bear the marks kept in a run's folder; none where none are kept."""
    marks = _load(folder)
    if marks is None:
        return []
    here = all_processes()
    leaders = {process.pid: process.started for process in here}
    sessions = {
        session
        for session, started in marks.sessions.items()
        if leaders.get(session, started) == started  # not the session of another process, with its number
    }
    pids = set() if marks.cgroup is None else processes_in(marks.cgroup)
    return [
        process
        for process in here
        if process.pid != os.getpid()
        and not process.is_zombie
        and (process.pid in pids or process.session in sessions or _holds(process.pid, marks.pipes))
    ]


def forget_marks(folder: Path) -> None:
    """The run is closed, and nothing of it is left: remove its marks."""
    marks = _load(folder)
    if marks is not None:
        with suppress(OSError), Folder.open(folder) as opened:
            ProcessMarks(opened, marks.cgroup).end()


class _Marks(NamedTuple):
    cgroup: Path | None
    pipes: frozenset[str]
    sessions: dict[int, str | None]


def _load(folder: Path) -> _Marks | None:
    try:
        stored: dict[str, Any] = parse_json((folder / MARKS_FILE).read_bytes())
        if not stored["boot_id"] or stored["boot_id"] != boot_id():
            return None
        return _Marks(
            cgroup=None if stored["cgroup"] is None else Path(stored["cgroup"]),
            pipes=frozenset(f"pipe:[{int(inode)}]" for inode in stored["pipes"]),
            sessions={int(session): started for session, started in stored["sessions"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _description(descriptor: int) -> str:
    """What the system calls a file that this process has open; nothing where it does not say."""
    with suppress(OSError):
        return os.readlink(_PROC / "self" / "fd" / str(descriptor))  # noqa: PTH115 - no path
    return ""


def _holds(pid: int, pipes: frozenset[str]) -> bool:
    """Whether a process has one of the pipes open, under whatever number."""
    folder = _PROC / str(pid) / "fd"
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - as in `process.all_processes`
            with suppress(OSError):  # closed meanwhile
                if os.readlink(folder / name) in pipes:  # noqa: PTH115 - no path, but a description
                    return True
    return False
