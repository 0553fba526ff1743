"""What a process hands down to its children beside its variables, to be put in force in another process.

Main entry: `ProcessSettings`. Invariant: putting them in force never fails; what may not be set stays.
"""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """The mask for new files, priority, processors and limits of a process."""

    umask: int
    niceness: int
    processors: tuple[int, ...]
    limits: dict[str, tuple[int, int]]

    @classmethod
    def of_this_process(cls) -> "ProcessSettings":
        """Those in force here."""
        umask = os.umask(0o077)
        os.umask(umask)
        processors = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
        limits = {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS}
        return cls(umask, os.nice(0), processors, limits)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ProcessSettings":
        """The settings that `dataclasses.asdict` made plain."""
        limits = {name: (soft, hard) for name, (soft, hard) in stored["limits"].items()}
        return cls(stored["umask"], stored["niceness"], tuple(stored["processors"]), limits)

    def put_in_force(self) -> None:
        """Make them this process's own, as far as it may."""
        os.umask(self.umask)
        with suppress(OSError):
            os.nice(self.niceness - os.nice(0))
        if self.processors:
            with suppress(OSError, AttributeError):
                os.sched_setaffinity(0, self.processors)
        for name, limits in self.limits.items():
            with suppress(OSError, ValueError, AttributeError):
                resource.setrlimit(getattr(resource, name), limits)
