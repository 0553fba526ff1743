"""What lies in a run's folder: the one place that names it.

Main entry: `RunFolder`; the bare names are for who has the folder open, and for listings of many folders.
Invariant: a name once released is never given to something else.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from conjure.core.home import Home

RECORD_FILE = "run.json"
LOCK_FILE = "lock"
LOG_FILE = "log.jsonl"
METRICS_FILE = "metrics.jsonl"
COLUMNS_FILE = "metrics.columns"
WORK, OUTPUTS = "work", "outputs"
MANIFEST = "manifest.json"
BASELINE = "before.json"
FOLDERS_FILE = "folders.json"
MARKS_FILE = "processes.json"
CONTAINER_FILE = "container"
SUPERVISOR_LOG = "supervisor.log"
ATTEMPTS = "attempts"
REMOVED = ".removed-"  # what is out of sight already begins so, such as a whole folder in `Home.runs`

# As `files.write_atomically` and `orphan_detection` name what they have not finished.
PARTIAL_FILE = re.compile(
    r"\.((run|manifest|before|folders)\.json|metrics\.columns)\.[a-z0-9_]{8}|\.processes\.json\.new"
)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where each thing of a run lies.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @classmethod
    def of(cls, home: Home, number: int) -> "RunFolder":
        """The folder of a run of a home."""
        return cls(home.run_folder(number))

    @property
    def record(self) -> Path:
        """The record, as JSON: what the run is known by if the database is lost."""
        return self.path / RECORD_FILE

    @property
    def lock(self) -> Path:
        """Held by the process that carries the run."""
        return self.path / LOCK_FILE

    @property
    def log(self) -> Path:
        """What the command printed, and notes of conjure's."""
        return self.path / LOG_FILE

    @property
    def metrics(self) -> Path:
        """The points that the command logged."""
        return self.path / METRICS_FILE

    @property
    def columns(self) -> Path:
        """The same points in a form that is quick to read: a cache, which may be missing."""
        return self.path / COLUMNS_FILE

    @property
    def work(self) -> Path:
        """The working folder: the code's root while the run goes on."""
        return self.path / WORK

    @property
    def outputs(self) -> Path:
        """What was saved of the working folder."""
        return self.path / OUTPUTS

    @property
    def manifest(self) -> Path:
        """The outputs with their digests."""
        return self.path / MANIFEST

    @property
    def baseline(self) -> Path:
        """What was in the working folder before the command started."""
        return self.path / BASELINE

    def attempt(self, number: int) -> "RunFolder":
        """The files of an attempt that was followed by another one."""
        return RunFolder(self.path / ATTEMPTS / str(number))

    @property
    def container(self) -> Path:
        """An empty file that is there while there may be a container of the run's."""
        return self.path / CONTAINER_FILE

    @property
    def supervisor_log(self) -> Path:
        """What went wrong in the run's supervisor; not there where nothing did."""
        return self.path / SUPERVISOR_LOG
