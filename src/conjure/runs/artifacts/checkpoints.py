"""Checkpoints of a run on a cluster, through its team's object store to an attempt on another node.

Main entries: `CheckpointSender`, `bring_checkpoint`. Invariant: what is sent is one state of all the files,
as they lay at one moment, and the next attempt is given the last one that was sent whole.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conjure.core.dir_fd import Folder, walk
from conjure.core.globs import GlobSet
from conjure.core.home import Home
from conjure.core.team_settings import objects_team
from conjure.core.trees import remove_tree
from conjure.runs.artifacts.attempts import PassedCheckpoints, copy_chosen, kept_attempt_folders
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.artifacts.team_transfer import bring_stream, shared_files
from conjure.runs.schema.run_folder import RunFolder

if TYPE_CHECKING:
    from conjure.runs.artifacts.team_runs import TeamRuns  # of the extra `team`

_State = dict[str, tuple[int, ...]]
_COPY = "checkpoint"
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Files that an attempt at a run keeps for the next one while it goes on.

    Attributes:
        place: Whose they are, counted as the record counts attempts: from 1.
        manifest: The digest of the list of the files.
        newest: For each glob that names some, when the newest of them was written.
        metrics_bytes: As much of the attempt's metrics was reported before the files were copied.
    """

    place: int
    manifest: str
    newest: dict[str, float]
    metrics_bytes: int


@dataclass(slots=True)
class CheckpointSender:
    """Sends the checkpoints of one attempt; use it from one thread at a time.

    Attributes:
        run_folder: The run's folder.
        number: The run.
        attempt: Which of its supervisors this is.
        place: Which attempt of the record's this is, from 1.
        globs: Which files are checkpoints.
    """

    run_folder: Path
    number: int
    attempt: int
    place: int
    globs: Sequence[str]
    _sent: _State = field(default_factory=dict)

    def stage(self) -> "StagedCheckpoint | None":
        """Copy the files if they were written to since the last time; None if not, or just now.

        Raises:
            OSError: They cannot be read, or the disk is full.
        """
        folder = RunFolder(self.run_folder)
        copy = self.run_folder / _COPY
        remove_tree(copy)
        try:
            with Folder.open(folder.work) as work:
                state = self._look(work)
                if not state or state == self._sent:
                    return None
                metrics_bytes = _whole_lines(folder.metrics)
                copied = PassedCheckpoints()
                copy.mkdir(mode=0o700)
                with Folder.open(copy) as target:
                    copy_chosen(work, target, self.globs, copied)
                if self._look(work) != state:
                    return None  # it is tried again when whoever writes them has come to an end
        except FileNotFoundError:
            return None
        return StagedCheckpoint(copy, copied, metrics_bytes, state)

    def _look(self, work: Folder) -> _State:
        """What tells whether one of the files was written to, or another took its place."""
        chosen = GlobSet(self.globs)
        found: _State = {}
        for name, entry in walk(work, on_error=lambda *_: None, one_mount=True):
            if entry.is_file and chosen.matches(name):
                facts = entry.stat()
                found[name] = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        return found

    def send(
        self, files: "TeamRuns", staged: "StagedCheckpoint", metrics_are_sent: Callable[[int], bool]
    ) -> bool:
        """Send what `stage` gave; whether that came to its end.

        Args:
            files: The team's store.
            staged: The copy, which is removed.
            metrics_are_sent: Waits until so many bytes of the metrics are in the store; False if that cannot
                be any more.

        Raises:
            StoreError: The database or the object store cannot be reached.
            OSError: The copy cannot be read.
        """
        try:
            digest = files.store(staged.copy, take_manifest(staged.copy))
        finally:
            remove_tree(staged.copy)
        if not metrics_are_sent(staged.metrics_bytes):
            return False
        checkpoint = Checkpoint(self.place, digest, staged.copied.newest, staged.metrics_bytes)
        files.put_checkpoint(checkpoint, self.number, self.attempt)
        self._sent = staged.state
        return True


@dataclass(frozen=True, slots=True)
class StagedCheckpoint:
    """A copy of the files as they lay at one moment.

    Attributes:
        copy: The folder that holds it.
        copied: What is in it.
        metrics_bytes: How much of the metrics had been reported.
        state: What the files looked like.
    """

    copy: Path
    copied: PassedCheckpoints
    metrics_bytes: int
    state: _State


def _whole_lines(path: Path) -> int:
    """The length of a file up to the end of its last whole line; 0 where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - _TAIL_BYTES))
            return start + file.read().rfind(b"\n") + 1
    except FileNotFoundError:
        return 0


def bring_checkpoint(
    home: Home, number: int, attempt: int, *, folder: Path | None = None, only_sent: bool = False
) -> None:
    """Have here what earlier attempts at a run sent, where `pass_checkpoints` looks for what they left.

    Args:
        home: The node's.
        number: The run.
        attempt: The attempt that asks.
        folder: What it has instead of the run's folder, if anything.
        only_sent: Leave out what an earlier attempt on this node left, but had not sent.

    Raises:
        StoreError: The database or the object store cannot be reached, or holds something damaged.
        OSError: The disk is full.
    """
    team = objects_team(home)
    if team is None:
        return
    run_folder = folder if folder is not None else home.run_folder(number)
    for kept in kept_attempt_folders(run_folder) if only_sent else ():
        RunFolder(kept.parent).baseline.unlink(missing_ok=True)  # half removed, it is not to be recovered
        remove_tree(kept)
    with shared_files(home, team) as files:
        found = files.newest_checkpoint(number, attempt)
        if found is None:
            return
        earlier, checkpoint = found
        own = RunFolder(run_folder).attempt(checkpoint.place)
        if own.work.is_dir():
            return  # it was on this node, which has what was not sent any more, too
        partial = own.path / _COPY
        remove_tree(partial)
        files.fetch(files.load(checkpoint.manifest), partial)
        _set_times(partial, checkpoint)
        bring_stream(files.objects, number, earlier, own.metrics, checkpoint.metrics_bytes)
        partial.rename(own.work)


def _set_times(folder: Path, checkpoint: Checkpoint) -> None:
    """Give the files the times by which `pass_checkpoints` tells which metrics are older."""
    chosen = {glob: GlobSet([glob]) for glob in checkpoint.newest}
    for name, entry in walk(folder):
        if entry.is_file:
            times = [checkpoint.newest[glob] for glob, pattern in chosen.items() if pattern.matches(name)]
            os.utime(folder / name, (min(times), min(times)))
