"""Members of a team, each with a home of its own; and what must be true of all that they share.

Main entries: `Member`, `make_team`, `assert_agreement`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from conjure.core.files import sha256_bytes
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.team_settings import objects_team
from conjure.python_api import Client
from conjure.runs.artifacts.team_transfer import shared_files
from conjure.runs.host.process import Process, with_variables
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.scheduling.scheduler_start import SCHEDULER_NAME
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.status import RunStatus
from support.casting import ending_runs
from support.terminal import Started, conjure, environment

COUNTING = "i=0; while [ ! -e ../go ]; do i=$((i+1)); echo $i; sleep 0.1; done"


class Member:
    """One home of the team, and the command in it; may be used by several threads.

    Args:
        root: The home's folder.
    """

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.client = Client(root)

    def start(self, *arguments: str) -> Started:
        """Start a command."""
        return Started(*arguments, variables=self._variables())

    def call(self, *arguments: str):
        """Run a command to its end."""
        return conjure(*arguments, variables=self._variables())

    def do(self, *arguments: str) -> str:
        """Run a command that must succeed; what it prints."""
        done = self.call(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _variables(self) -> dict[str, str]:
        return environment() | {HOME_VARIABLE: str(self.home.root)}

    def files(self):
        """What the team shares, as this member reaches it; a context manager."""
        return shared_files(self.home, objects_team(self.home))

    def active(self) -> list[RunRecord]:
        """The runs that have not ended, once those that this member can tell to be lost are closed."""
        with open_store(self.home) as store:
            return store.active()

    def processes(self) -> list[Process]:
        """All that runs have left, or are, on this member's machine."""
        return [
            process
            for process in with_variables([f"{HOME_VARIABLE}={self.home.root}".encode()])
            if process.name != SCHEDULER_NAME
        ]

    def internal_errors(self) -> str:
        """What supervisors wrote down that went wrong in them."""
        logs = sorted(self.home.runs.glob("*/supervisor.log"))
        return "".join(f"{path}:\n{path.read_text()}" for path in logs)


def make_team(
    folder: Path,
    address: str,
    objects: str,
    *,
    first_command: str | None = None,
    heartbeat_s: float | None = None,
    ada: Path | None = None,
) -> tuple[Member, Member]:
    """Two homes of a team: one that has begun it, and one that has joined.

    Args:
        folder: Where their homes are made.
        address: Of the database.
        objects: Address of the object store.
        first_command: What the first one has run before.
        heartbeat_s: Seconds between heartbeats, if not the default.
        ada: Where the first one's home is, if not in the folder.
    """
    members = Member(ada if ada is not None else folder / "ada"), Member(folder / "bob")
    if heartbeat_s is not None:
        for member in members:
            set_heartbeat(member.home, heartbeat_s)
    if first_command is not None:
        members[0].do("run", first_command)
    members[0].do("team", "init", "--database", address, "--objects", objects)
    members[1].do("team", "join", "--database", address)
    return members


@contextmanager
def running_team(
    folder: Path, address: str, objects: str, *, heartbeat_s: float | None = None
) -> Iterator[tuple[Member, Member]]:
    """The same, and all their runs are ended after it."""
    with ExitStack() as stack:
        members = make_team(folder, address, objects, heartbeat_s=heartbeat_s)
        for member in members:
            stack.enter_context(ending_runs(member.home))
        yield members


def set_heartbeat(home: Home, seconds: float) -> None:
    """Shorten the times after which a silent supervisor gives up, and its run is taken over."""
    home.create().config_file.write_text(f"[team]\nheartbeat = {seconds}\n")


def assert_agreement(
    member: Member,
    made: Callable[[RunRecord], Mapping[str, str] | None] = lambda _: None,
    *,
    missing: int = 0,
    newest: int | None = None,
) -> list[RunRecord]:
    """Check that the database and the object store say the same of every run, and that it is the truth.

    Args:
        member: Who looks.
        made: The files that a completed run must have, with their digests; None where that is not known.
        missing: How many numbers at most were given to nobody.
        newest: Read only what so many of the newest runs saved.

    Returns:
        All runs.
    """
    with member.files() as files:
        records = sorted(files.database.select(), key=lambda record: record.number)
        last = max((record.number for record in records), default=0)
        assert last - len(records) <= missing
        for record in records:
            assert record.status.is_final
            assert record.outputs is not None or record.status is not RunStatus.COMPLETE
        for record in records[-newest:] if newest is not None else records:
            outputs = record.outputs
            if outputs is None or outputs.removed:
                continue
            assert outputs.manifest is not None
            saved = files.load(outputs.manifest)
            assert len(saved.manifest.entries) == outputs.files
            wanted = made(record)
            if wanted is not None and record.status is RunStatus.COMPLETE:
                assert {entry.path: entry.digest for entry in saved.manifest.entries} == wanted
            assert files.find_faults(saved) == []
    return records


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files, with the digests of their contents."""
    return {name: sha256_bytes(content) for name, content in files.items()}
