"""Sending what a run is given and makes to its team's object store.

Main entry: `RunUploader`, from the run's supervisor.
Invariant: nothing that fails in a `RunUploader` ends a run: it is tried again, and what could not be sent
stays in the run's folder.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from conjure.core.team_settings import objects_team
from conjure.errors import ConjureError
from conjure.runs.artifacts.checkpoints import CheckpointSender, StagedCheckpoint
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.team_transfer import shared_files
from conjure.runs.database.base import Database, SupersededError

if TYPE_CHECKING:
    from conjure.runs.artifacts.team_runs import TeamRuns
    from conjure.runs.objects.index import Streams

_SEND_EVERY_S = 0.7  # so that who follows from elsewhere is less than two seconds behind
_EXPORT_EVERY_S = 5.0
_LONGEST_PAUSE_S = 10.0
_PAUSE_S = 1.0
_PATIENCE_WITH_THREAD_S = 5.0
# Checkpoints: where there are new ones they are sent at most so often, and for a tenth of the time.
_LOOK_FOR_CHECKPOINT_EVERY_S = 1.0
_CHECKPOINT_EVERY_S = 30.0
_SHARE_OF_TIME = 10


class RunUploader:
    """Sends a run's log and metrics from a thread of its own, and from another the files it was given.

    In a home of its own, or one whose folder is on a shared disk, it does nothing.

    Args of the constructor:
        store: Where the run is recorded, for the thread that supervises.
        number: The run.
        attempt: Which of its supervisors this is.

    Attributes:
        sent_outputs: How many objects with what the run saved have been sent, by tries that failed, too.
    """

    def __init__(self, store: Database, number: int, attempt: int) -> None:
        self.sent_outputs = 0
        self._store = store
        self._home = home = store.home
        self._team = objects_team(home)
        self._number = number
        self._attempt = attempt
        self._is_over = threading.Event()
        self._sent: Streams | None = None
        self._stack = ExitStack()
        self._files: TeamRuns | None = None
        self._gave_inputs = False
        self._thread = threading.Thread(
            target=self._send_again, args=(self._send_until_over,), name="run-upload", daemon=True
        )
        # What a run is given may take longer to send than the run takes.
        self._input_thread = threading.Thread(
            target=self._send_again, args=(self._give_inputs,), name="input-upload", daemon=True
        )
        self._place: int | None = None  # which attempt of the record's this is, from 1
        self._checkpoints: CheckpointSender | None = None
        self._checkpoint_thread = threading.Thread(
            target=self._send_checkpoints, name="checkpoints", daemon=True
        )
        self._command_is_over = threading.Event()
        self._staging = threading.Lock()

    def start(self) -> None:
        """Begin to send."""
        if self._team is not None:
            self._thread.start()
            self._input_thread.start()

    def store_outputs(self, folder: Path, manifest: Manifest) -> str | None:
        """Send the files that a run saved; the digest of their list there, None without an object store.

        Raises:
            StoreError: The database or the object store cannot be reached.
            OSError: A file cannot be read.
        """
        if self._team is None:
            return None
        with self._here() as files:
            before = files.sent
            try:
                return files.store(folder, manifest)
            finally:
                self.sent_outputs += files.sent - before

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def watch_checkpoints(self, place: int, globs: Sequence[str]) -> None:
        """Send files for a next attempt, which may be on another machine, whenever they were written to.

        Args:
            place: Which attempt of the record's this is, from 1.
            globs: Which files; none for nothing.
        """
        if self._team is None or not globs:
            return
        folder = self._home.run_folder(self._number)
        self._checkpoints = CheckpointSender(folder, self._number, self._attempt, place, globs)
        self._checkpoint_thread.start()

    def end_checkpoints(self) -> None:
        """Look for no more of them: the command is over, and what it made will be moved."""
        with self._staging:
            self._command_is_over.set()

    def send_last_checkpoint(self) -> None:
        """Send the last state, once the command is over and another attempt may follow; if it can be sent."""
        if self._checkpoints is None:
            return
        self._checkpoint_thread.join(_LONGEST_PAUSE_S)
        if self._checkpoint_thread.is_alive():
            return  # what is under way was taken a moment ago
        with suppress(ConjureError, OSError), self._here() as files:
            staged = self._checkpoints.stage()
            if staged is not None:
                self._checkpoints.send(files, staged, self._metrics_are_sent)

    def _send_checkpoints(self) -> None:
        assert self._team is not None
        while not self._command_is_over.is_set():
            with suppress(ConjureError, OSError), shared_files(self._home, self._team, tries=2) as files:
                while not self._command_is_over.is_set():
                    self._send_checkpoint(files)
            self._command_is_over.wait(_LONGEST_PAUSE_S)

    def _send_checkpoint(self, files: "TeamRuns") -> None:
        """Send the files if there is something new, and wait until it is time to look again."""
        assert self._checkpoints is not None
        started, pause = time.monotonic(), _LOOK_FOR_CHECKPOINT_EVERY_S
        staged = self._stage(self._checkpoints)
        if staged is not None and self._checkpoints.send(files, staged, self._metrics_are_sent):
            pause = _CHECKPOINT_EVERY_S
        self._command_is_over.wait(max(pause, _SHARE_OF_TIME * (time.monotonic() - started)))

    def _stage(self, checkpoints: CheckpointSender) -> StagedCheckpoint | None:
        with self._staging:
            return None if self._command_is_over.is_set() else checkpoints.stage()

    def _metrics_are_sent(self, length: int) -> bool:
        """Wait until so much of the metrics was sent; False if that is not going on any more."""
        while length and (self._sent is None or self._sent.metrics_bytes < length):
            if not self._thread.is_alive():
                return False
            self._is_over.wait(_SEND_EVERY_S)
        return True

    # ---- the end -------------------------------------------------------------------------------------------

    def finish(self, patience_s: float, go_on: Callable[[], object]) -> None:
        """Send the rest, once nothing more is written.

        Args:
            patience_s: How long to try where it cannot be sent.
            go_on: Called now and then while it waits; may raise to end it.
        """
        if self._team is None or self._thread.ident is None:
            return
        self.end_checkpoints()
        self._is_over.set()
        # The inputs last: what the run printed must not be lost for them.
        until = time.monotonic() + patience_s
        for thread, send in ((self._thread, self._send), (self._input_thread, self._give_inputs)):
            if not _has_ended(thread, max(until - time.monotonic(), _PATIENCE_WITH_THREAD_S), go_on):
                return  # the store neither answers nor refuses
            self._send_here(send, until, go_on)

    def _send_here(
        self, send: "Callable[[TeamRuns], object]", until: float, go_on: Callable[[], object]
    ) -> None:
        """Send something from the thread that supervises; again, until some time, where that fails."""
        while True:
            with suppress(SupersededError):
                try:
                    with self._here() as files:
                        send(files)
                except (ConjureError, OSError):
                    if time.monotonic() < until:
                        time.sleep(_PAUSE_S)
                        go_on()
                        continue
            return

    def export_record(self) -> None:
        """Bring the record in the object store up to date; the next command or run does where this cannot."""
        if self._team is not None:
            with suppress(ConjureError, OSError), self._here() as files:
                files.export_records()
            self._stack.close()

    @contextmanager
    def _here(self) -> "Iterator[TeamRuns]":
        """The team's files for the thread that supervises; opened once, and again after an error.

        They are reached through the connection that this thread has. A wish to end the run may cut a
        statement short, so the connection is made anew then.
        """
        assert self._team is not None
        if self._files is None:
            self._files = self._stack.enter_context(shared_files(self._home, self._team, store=self._store))
        try:
            yield self._files
        except BaseException:
            self._files = None
            self._stack.close()
            self._store.close()
            raise

    def _send_again(self, send: "Callable[[TeamRuns], object]") -> None:
        """Send something from a thread of its own; again, while the run goes on, where that fails."""
        pause = _PAUSE_S
        assert self._team is not None
        while not self._is_over.is_set():
            try:
                with shared_files(self._home, self._team, tries=2) as files:
                    send(files)
                    return
            except SupersededError:
                return  # the heartbeat finds it out too, and ends the run
            except (ConjureError, OSError):
                self._is_over.wait(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _send_until_over(self, files: "TeamRuns") -> None:
        next_export = 0.0
        while not self._is_over.is_set():
            self._send(files)
            if time.monotonic() >= next_export:
                next_export = time.monotonic() + _EXPORT_EVERY_S
                files.export_records()
            self._is_over.wait(_SEND_EVERY_S)

    def _send(self, files: "TeamRuns") -> None:
        self._sent = files.send_streams(
            self._home.run_folder(self._number), self._number, self._attempt, self._sent
        )

    def _give_inputs(self, files: "TeamRuns") -> None:
        if self._gave_inputs:
            return
        record = files.database.get(self._number)
        if record.spec.retry:
            if self._place is None:  # once: when it is tried again, the next attempt may have begun
                self._place = len(record.attempts) + 1
            files.note_attempt(self._number, self._place, self._attempt)
        files.send_inputs(self._home, record)
        self._gave_inputs = True


def _has_ended(thread: threading.Thread, patience_s: float, meanwhile: Callable[[], object]) -> bool:
    """Wait until a thread has ended; False if it does not in time."""
    until = time.monotonic() + patience_s
    while thread.is_alive() and time.monotonic() < until:
        thread.join(min(_PAUSE_S, max(until - time.monotonic(), 0)))
        meanwhile()
    return not thread.is_alive()
