"""What a person sees of a run: its statuses, its output as it comes, and how it ended.

Main entries: `follow_run`, `RunView`. On a terminal a status turns a spinner until it is over; elsewhere
the same lines come without colours and spinners. Invariant: a view's own lines never share a line with
the command's output.
"""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import click

from conjure.cli.render import MarkedLines, cut, terminal_width, visible
from conjure.core.held_interrupts import interrupts_held
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.units import format_duration, format_size
from conjure.recipes.report import learned_nothing
from conjure.runs.artifacts.attempts import has_kept_work
from conjure.runs.database.base import KILL, STOP
from conjure.runs.lifecycle.log_following import (
    Ended,
    Entered,
    Event,
    Found,
    Printed,
    Queued,
    follow,
)
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.lifecycle.stop_requests import cancel_queued, request_end
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import EXIT_DETACHED, Ending, EndReason, RunStatus, exit_status
from conjure.runs.telemetry.logs import NOTE, STDERR, LogEntry, last_state, newest_state

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "|/-\\"
_SPIN_EVERY_S = 0.1
_CLEAR_LINE = "\r\x1b[2K"
_WIDEST_DETAIL = 60
_FEW_WORDS = 80
_LONGEST_BAR = 1 << 16  # characters of a state that are kept back
_WITHOUT_PARTS = ("score",)  # kinds of run that have nothing to save before their end
_REWRITTEN = re.compile(r"\r(?!\n)")

_END_MARKS = {
    RunStatus.KILLED: "💀",
    RunStatus.STOPPED: "✋",
    RunStatus.INTERRUPTED: "✋",
}
# Stopped: while it waited for its next attempt; else its supervisor saved what it made.
_UNSAVED = (RunStatus.KILLED, RunStatus.INTERRUPTED, RunStatus.STOPPED)
_END_COLOURS = {RunStatus.COMPLETE: "green", RunStatus.STOPPED: "yellow", RunStatus.INTERRUPTED: "yellow"}
_TITLES = {
    RunStatus.QUEUED: "Queued",
    RunStatus.BUILDING: "Building",
    RunStatus.MOUNTING: "Mounting",
    RunStatus.SAVING: "Saving",
}


def follow_run(
    home: Home, number: int, *, interrupt_stops: bool = False, interrupt_cancels: bool = False
) -> int:
    """Show a run until it has ended, and give the exit status to end with.

    Args:
        number: The run.
        interrupt_stops: The first ^C asks the run to stop and save, the second kills it, a third detaches.
        interrupt_cancels: A ^C ends the run if it still waits in the queue.
    """
    view = RunView()
    interrupts = _Interrupts() if interrupt_stops else ()
    try:
        for event in follow(home, number):
            _pass_on(interrupts, home, number, view)
            if isinstance(event, Ended) and learned_nothing(home, event.record):
                view.complete_mark = "·"
            view.show(event)
            if isinstance(event, Ended):
                assert event.record.ending is not None
                return exit_status(event.record.ending)
    except KeyboardInterrupt:
        with interrupts_held():
            cancelled = cancel(home, number) if interrupt_cancels else None
        view.detached(number) if cancelled is None else view.cancelled(cancelled)
        return EXIT_DETACHED
    raise AssertionError("a followed run ends")


def wait_silently(home: Home, number: int, *, interrupt_stops: bool = False) -> RunRecord:
    """The record of a run once it has ended; nothing is shown meanwhile, but on stderr what a ^C does.

    Args:
        number: The run.
        interrupt_stops: As for `follow_run`; a ^C that detaches is raised.
    """
    view = RunView(to_stderr=True)
    interrupts = _Interrupts() if interrupt_stops else ()
    for event in follow(home, number):
        _pass_on(interrupts, home, number, view)
        if isinstance(event, Ended):
            return event.record
    raise AssertionError("a followed run ends")


def cancel(home: Home, number: int) -> RunRecord | None:
    """End a run that waits in the queue; None if it does not, or not any more."""
    ending = Ending(EndReason.KILL_REQUESTED, message="cancelled while queued")
    with open_store(home) as store:
        return store.get(number) if cancel_queued(store, number, ending) else None


class _Interrupts:
    """Takes the first ^C as a request to stop and the second as one to kill; a third interrupts as usual.

    Each request is given once, by iterating: a signal may come in the middle of anything. A ^C that is
    ignored, as in the background of a shell, stays so.
    """

    def __init__(self) -> None:
        self._to_come = [STOP, KILL]
        self._requests: list[str] = []
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._take)

    def _take(self, *_: object) -> None:
        self._requests.append(self._to_come.pop(0))
        if not self._to_come:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __iter__(self) -> Iterator[str]:
        while self._requests:
            yield self._requests.pop(0)


def _pass_on(interrupts: Iterable[str], home: Home, number: int, view: "RunView") -> None:
    """Ask the run to end for each ^C that came, and say so."""
    for request in interrupts:
        with open_store(home) as store:
            request_end(store, number, request)
            kind = store.get(number).spec.kind
        view.say("✨", _interrupt_note(request, number, kind))


def _interrupt_note(request: str, number: int, kind: str) -> str:
    if request == STOP:
        what = "Stopping" if kind in _WITHOUT_PARTS else "Stopping and saving"
        return f"{what}; press ^C again to abort"
    return f"Aborting; `{with_home(f'conjure recover {number}')}` can save its files"


class RunView(MarkedLines):
    """Writes a run's events to stdout, and what the command wrote to stderr to stderr."""

    def __init__(self, *, to_stderr: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(to_stderr=to_stderr)
        self.complete_mark = "🎉"
        self._clock = clock
        self._open: RunStatus | None = None
        self._detail = ""
        self._spun_at = 0.0
        self._turns = 0
        self._phases: frozenset[RunStatus] = frozenset(_TITLES)
        self._in_line = False
        self._bars: dict[str, str] = {}

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Found):
            self._phases = _shown_phases(event.record)
        elif isinstance(event, Entered):
            self._enter(event.phase)
        elif isinstance(event, Queued):
            self._wait_for(event.needs)
        elif isinstance(event, Printed):
            self._print(event.entry)
        elif isinstance(event, Ended):
            self._end(event.record)
        else:
            self._spin()

    def detached(self, number: int) -> None:
        """The user has stopped looking; the run goes on."""
        self._leave_line()
        if self._on_terminal:
            click.echo()
        self.say("✨", f"Run {number} continues in the background.")
        self.say("✨", f"View its log:              {with_home(f'conjure logs -f {number}')}")
        self.say("✨", f"Stop and save outputs:     {with_home(f'conjure stop {number}')}")
        self.say("✨", f"Kill without saving:       {with_home(f'conjure kill {number}')}")

    def cancelled(self, record: RunRecord) -> None:
        """The user has ended the run while it waited."""
        self._leave_line()
        if self._on_terminal:
            click.echo()
        self.say(_END_MARKS.get(record.status, "💥"), ended(record))
        for line in hints(record):
            self.say("  ", line)

    def say(self, mark: str, text: str, *, colour: str | None = None) -> None:
        """One line of the view's own."""
        self._leave_line()
        super().say(mark, text, colour=colour)

    # ---- statuses ------------------------------------------------------------------------------------------

    def _enter(self, phase: RunStatus) -> None:
        self._close_phase()
        if phase is RunStatus.RUNNING:
            self.say("✨", "Run is running")
        elif phase in self._phases:
            self._open, self._detail = phase, ""
            self._spin()

    def _wait_for(self, needs: str) -> None:
        """Show what a queued run waits for: beside the spinner, or once where lines stay."""
        if self._on_terminal:
            self._detail = f"waiting for {needs}"
        elif self._open is RunStatus.QUEUED and not self._detail:
            self._detail = needs
            self.say("✨", f"Waiting for {needs}")

    def _close_phase(self, outcome: str = "done") -> None:
        phase, self._open = self._open, None
        if phase is None:
            return
        self._clear_spinner()
        self.say("✨", f"{_TITLES[phase]}… {outcome}")
        self._turns = 0

    def _spin(self) -> None:
        if self._open is None or not self._on_terminal or self._clock() - self._spun_at < _SPIN_EVERY_S:
            return
        self._leave_line()
        frames = _SPINNER if self._unicode else _ASCII_SPINNER
        frame = click.style(frames[self._turns % len(frames)], fg="cyan")
        title = f"{_TITLES[self._open]}{'…' if self._unicode else '...'}"
        room = terminal_width() - len(f"x {title} ") - 1  # a line that wraps could not be rewritten
        detail = click.style(cut(self._detail, room), dim=True) if room > 0 else ""
        click.echo(f"{_CLEAR_LINE}{frame} {title} {detail}", nl=False)
        self._spun_at = self._clock()
        self._turns += 1

    def _clear_spinner(self) -> None:
        if self._on_terminal and self._turns:
            click.echo(_CLEAR_LINE, nl=False)

    # ---- output --------------------------------------------------------------------------------------------

    def _print(self, entry: LogEntry) -> None:
        if entry.stream == NOTE:
            self._note(entry.text.rstrip("\n"))
            return
        out = sys.stderr if entry.stream == STDERR else sys.stdout
        content = entry.content if self._on_terminal else self._settled(entry)
        if content:
            sys.stdout.flush()
            out.buffer.write(content)
            out.flush()
            self._in_line = not content.endswith(b"\n")

    def _note(self, text: str) -> None:
        if self._on_terminal and self._open is not None:
            self._detail = visible(text.splitlines()[-1][:_WIDEST_DETAIL]) if text else ""
            self._spin()
        else:
            self.say("✨", text)

    def _settled(self, entry: LogEntry) -> bytes:
        """For a file: a line that is rewritten by carriage returns comes once, in its last state."""
        begun = self._bars.pop(entry.stream, "")
        text = begun + entry.text
        if entry.escaped is not None or not _REWRITTEN.search(text):
            return begun.encode() + entry.content
        *whole, rest = text.split("\n")
        rest = newest_state(rest)
        if _REWRITTEN.search(rest) and len(rest) <= _LONGEST_BAR:
            self._bars[entry.stream] = rest
            rest = ""
        return "\n".join([*map(last_state, whole), rest]).encode()

    def _leave_line(self) -> None:
        for stream, rest in self._bars.items():
            out = sys.stderr if stream == STDERR else sys.stdout
            out.write(last_state(rest))
            self._in_line = True
        self._bars.clear()
        if self._in_line:
            self._in_line = False
            click.echo()

    # ---- the end -------------------------------------------------------------------------------------------

    def _end(self, record: RunRecord) -> None:
        ending = record.ending
        assert ending is not None
        status = record.status
        mark = self.complete_mark if status is RunStatus.COMPLETE else _END_MARKS.get(status, "💥")
        unsaved = ending.reason is EndReason.SAVE_FAILED
        failed_here = self._open is not None and (status.name.endswith("_FAILED") or unsaved)
        self._close_phase("failed" if failed_here else _saved(record))
        if record.total_s is not None:
            self.say(mark, f"Total run time: {format_duration(record.total_s)}")
        self.say(mark, ended(record), colour=_END_COLOURS.get(status, "red"))
        for line in (*details(record), *hints(record)):
            self.say("  ", line)


def ended(record: RunRecord) -> str:
    """How a run ended, in a few words: ``Run 3 failed (exit status 1)``."""
    how, status = _how(record), str(record.status)
    as_status = "ended as " if "_" in status else ""  # no verb, as the others are
    return f"Run {record.number} {as_status}{status}{f' ({how})' if how else ''}"


def details(record: RunRecord) -> list[str]:
    """Why a run ended, line by line, where that takes more than a few words."""
    ending = record.ending
    if ending is None or ending.message is None or ending.message in _how(record):
        return []
    return [] if ending.exit_code else ending.message.splitlines()


def _shown_phases(record: RunRecord) -> frozenset[RunStatus]:
    """Phases worth a line: not queued where nothing was requested, not mounting where there are no mounts."""
    needless = set()
    if not (record.spec.resources.asks or record.spec.after):
        needless.add(RunStatus.QUEUED)
    if not record.spec.mounts:
        needless.add(RunStatus.MOUNTING)
    return frozenset(_TITLES) - needless


def _saved(record: RunRecord) -> str:
    outputs = record.outputs
    if outputs is None:
        return "done"
    if not outputs.files:
        return "done (no new files)"
    size = format_size(outputs.size_bytes)
    return f"done ({outputs.files} file{'s' * (outputs.files != 1)}, {size} → runs/{record.number})"


def _how(record: RunRecord) -> str:
    ending = record.ending
    assert ending is not None
    if ending.reason is EndReason.NONZERO_EXIT:
        return f"exit status {ending.exit_code}"
    if ending.reason is EndReason.SIGNALLED and ending.signal is not None:
        return f"signal {ending.signal}, {signal.strsignal(ending.signal)}"
    if ending.reason is EndReason.PRUNED:
        return "pruned"
    if ending.reason in (EndReason.TIMEOUT, EndReason.STOP_CONDITION):
        return f"{str(ending.reason).replace('_', ' ')}: {ending.message}"
    message = ending.message or ""
    return message if len(message) <= _FEW_WORDS else ""


def hints(record: RunRecord) -> list[str]:
    """What to type next, line by line, where a run did not complete."""
    number, status, ending = record.number, record.status, record.ending
    if status is RunStatus.FAILED:
        is_killed = ending is not None and ending.reason is EndReason.SIGNALLED
        killed = is_killed and record.spec.kind == "finetune"  # which says so itself if it can
        log, details = with_home(f"conjure logs {number}"), with_home(f"conjure info {number}")
        resume = with_home(f"conjure finetune --resume runs/{number}")
        return [f"Log: {log}   Details: {details}", *[f"To resume: {resume}"] * killed]
    if status in _UNSAVED and record.is_unsaved and _may_be_kept(number):
        recover = with_home(f"conjure recover {number}")
        return [f"Its working folder is kept; save its outputs: {recover}"]
    return []


def _may_be_kept(number: int) -> bool:
    """Whether a run's working folder is there, or on another machine as far as can be seen."""
    home = Home.from_environment()
    return home.is_elsewhere(number) or has_kept_work(home.run_folder(number))
