"""`conjure logs`: what a run printed."""

import re
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import click

from conjure.cli.render import interrupt_detaches, note, visible, write_json
from conjure.cli.run_number_type import WholeNumber, optional_number
from conjure.cli.run_view import details, ended, follow_run
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.text import plural
from conjure.errors import NotFoundError, UsageError
from conjure.runs.artifacts.team_transfer import bring_attempt, bring_streams
from conjure.runs.lifecycle.log_following import Ended, Printed, Waiting, follow
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.status import exit_status
from conjure.runs.telemetry.logs import STDOUT, LineAssembler, LogEntry, LogLine, LogTail, lines, log_is_lost


@click.command
@optional_number
@click.option("-f", "--follow", "following", is_flag=True, help="Follow the run until it ends.")
@click.option("--attempt", type=WholeNumber(least=1), metavar="A", help="Show the log of an earlier attempt.")
@click.option("-n", "--last", type=WholeNumber(least=0), metavar="K", help="Show only the last K lines.")
@click.option("--timestamps", is_flag=True, help="Show the time of each line.")
@click.option("--stderr", is_flag=True, help="Show only lines written to stderr, and conjure's own notes.")
@click.option("--grep", metavar="PATTERN", help="Show only lines that match this regular expression.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line: time, stream, text.")
def command(
    number: int,
    *,
    following: bool,
    attempt: int | None,
    last: int | None,
    timestamps: bool,
    stderr: bool,
    grep: str | None,
    as_json: bool,
) -> int:
    """Show the log of run NUMBER (default: the newest). With -f the exit status is the run's own."""
    home = Home.from_environment()
    wanted = _Lines(pattern=_pattern(grep), last=last, timestamps=timestamps, stderr=stderr, as_json=as_json)
    if following and attempt is not None:
        raise UsageError("--follow and --attempt cannot be combined")
    if following:
        return _follow(home, number, wanted) if wanted.asks else follow_run(home, number)
    with open_store(home) as store:
        record = store.get(number)
    bring_streams(home, number)
    folder = home.run_folder(number)
    if attempt is not None and attempt != len(record.attempts) + 1:
        _refuse_attempt(record, attempt)
        bring_attempt(home, number, attempt)
        folder = RunFolder(folder).attempt(attempt).path
    if log_is_lost(folder, record):
        raise NotFoundError(
            f"the log of run {number} is lost: {RunFolder(folder).log} is missing", fix="conjure doctor"
        )
    entries = LogTail(RunFolder(folder).log).read()
    if wanted.asks:
        wanted.show(lines(entries))
    elif not _write_exactly(entries):
        note(_silence(record))
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """Which lines are shown, and how."""

    pattern: re.Pattern[str] | None
    last: int | None
    timestamps: bool
    stderr: bool
    as_json: bool

    @property
    def asks(self) -> bool:
        """Whether anything is asked beside everything, as it is."""
        return bool(self.pattern or self.timestamps or self.stderr or self.as_json or self.last is not None)

    def show(self, found: Iterable[LogLine]) -> None:
        """Show those of the lines that are wanted: the last of them, if only so many are."""
        self.write_all(found if self.last is None else deque(filter(self.wants, found), self.last))

    def show_before(self, whole: Iterable[LogLine], begun: Iterable[LogLine]) -> None:
        """Show the last lines of a log that goes on; those begun count, and are shown when they end."""
        to_come = sum(map(self.wants, begun))
        self.write_all(deque(whole, max(0, (self.last or 0) - to_come)))

    def wants(self, line: LogLine) -> bool:
        """Whether a line is among those asked for."""
        if self.stderr and line.stream == STDOUT:
            return False
        return self.pattern is None or self.pattern.search(line.text) is not None

    def write_all(self, found: Iterable[LogLine]) -> None:
        """Write those of the lines that are among those asked for, however many."""
        for line in filter(self.wants, found):
            self.write(line)

    def write(self, line: LogLine) -> None:
        """Write a line: in JSON to stdout, else to the stream it came from."""
        if self.as_json:
            write_json(asdict(line))
            return
        moment = datetime.fromtimestamp(line.time).astimezone()
        time = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} " if self.timestamps else ""
        err = line.stream != STDOUT
        click.echo(f"{time}{visible(line.text, err=err)}", err=err)


def _follow(home: Home, number: int, wanted: _Lines) -> int:
    """Show lines as they come until the run has ended, beginning with what is there."""
    assembler = LineAssembler()
    before = deque[LogLine](maxlen=wanted.last) if wanted.last is not None else None
    log = with_home(f"conjure logs -f {number}")
    with interrupt_detaches(lambda: [f"Run {number} continues; view its log: {log}"]):
        for event in follow(home, number):
            if isinstance(event, Printed):
                found = assembler.feed(event.entry)
                if before is not None:
                    before.extend(filter(wanted.wants, found))
                else:
                    wanted.write_all(found)
            elif isinstance(event, Waiting) and before is not None:
                wanted.show_before(before, assembler.begun())
                before = None
            elif isinstance(event, Ended):
                if before is not None:
                    wanted.show([*before, *assembler.begun()])
                else:
                    wanted.write_all(assembler.begun())
                return 0 if event.record.ending is None else exit_status(event.record.ending)
    raise AssertionError("a followed run ends")


def _write_exactly(entries: Iterable[LogEntry]) -> bool:
    """Write what was printed byte for byte, each to its own stream; False if there was nothing."""
    shown = False
    for entry in entries:
        shown = True
        out = sys.stdout if entry.stream == STDOUT else sys.stderr
        out.buffer.write(entry.content)
        out.flush()
    return shown


def _refuse_attempt(record: RunRecord, attempt: int) -> None:
    attempts = len(record.attempts) + 1
    if attempt > attempts:
        raise NotFoundError(
            f"run {record.number} has no attempt {attempt}; it has had {plural(attempts, 'attempt')}",
            fix=f"conjure info {record.number}",
        )


def _silence(record: RunRecord) -> str:
    """What to say of a run that printed nothing: why, where that is known."""
    if record.ending is None:
        return f"Run {record.number} has printed nothing yet"
    return "\n".join([f"{ended(record)}; it printed nothing", *details(record)])


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"--grep {text!r} is not a regular expression: {error}") from error
