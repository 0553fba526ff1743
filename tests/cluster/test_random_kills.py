"""SIGKILLs at random moments to all that works for a team: what was committed stays, nothing else shows."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import psycopg
import pytest

from conjure.core.team_settings import read_team
from conjure.errors import StoreError
from conjure.runs.database.open_database import open_database
from conjure.runs.host.process import descendants, find_process
from conjure.runs.lifecycle.abandoned_runs import process_name
from conjure.runs.schema.status import RunStatus
from support.casting import wait_until
from support.repositories import write_files
from support.team_members import Member, assert_agreement, digests, running_team

# Each with how often it is struck beside the others.
VICTIMS = {
    "supervisor": 5,
    "guard": 2,
    "guard and supervisor": 3,
    "the command": 2,
    "who asked for the run": 3,
    "the whole machine": 3,
    "a connection of the database": 2,
    "the object store": 1,
    "an upload": 2,
    "a removal": 2,
}
LARGE = 400_000
KILLS = 20


@dataclass
class Team:
    """What is struck, and what is known of what it did.

    Attributes:
        members: Two homes.
        rng: When and what.
        unnumbered: How many numbers may have been given to nobody.
    """

    members: tuple[Member, Member]
    address: str
    rng: object
    unnumbered: int = 0
    names: Iterator[int] = field(default_factory=lambda: count(1))

    def strike(self, what, postgres, s3):
        """Have a member do something, and kill a part of it; whether there was a part to kill."""
        member, other = self.rng.sample(self.members, 2)
        name = f"name-{next(self.names)}"
        if what == "an upload":
            write_files(member.home.root.parent, {"data/own": name, "data/large": name * 100_000})
            struck = self._kill_command(member.start("upload", "../data"), 0.4)
        elif what == "a removal":
            number = self.rng.choice([run.number for run in other.client.runs()] or [1])
            struck = self._kill_command(member.start("rm", f"runs/{number}"), 0.2)
        else:
            command = member.start("run", command_of(name))
            if what in ("supervisor", "guard", "guard and supervisor", "the command"):
                wait_until(member.processes, "the supervisor's start")
            time.sleep(self.rng.uniform(0.0, 0.8))  # chance is what is tried here
            struck = self._kill_part(what, member, command, postgres, s3)
            command.communicate()
        wait_until(lambda: has_settled(member), f"the end after {what} was killed", every_s=0.1)
        wait_until(lambda: not member.processes(), "the end of all processes")
        return struck, name, member, other

    def _kill_command(self, command, longest_s):
        time.sleep(self.rng.uniform(0.0, longest_s))
        with suppress(ProcessLookupError):
            command.send_signal(signal.SIGKILL)
        command.communicate()
        return command.returncode == -signal.SIGKILL

    def _kill_part(self, what, member, command, postgres, s3):
        if what == "a connection of the database":
            self.unnumbered += 1
            return postgres.kill_connection(self.address, self.rng.choice)
        if what == "the object store":
            s3.stop()
            s3.start()
            return True
        victims = list(self._victims(what, member))
        if what in ("who asked for the run", "the whole machine"):
            self.unnumbered += 1
            with suppress(ProcessLookupError):
                command.send_signal(signal.SIGKILL)
                victims = [*victims, None]
        for pid in victims:  # halted first, so that none can do anything about the others' end
            with suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGSTOP)
        for pid in victims:
            with suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def _victims(self, what, member):
        if what == "who asked for the run":
            return
        for process in member.processes():
            above = find_process(process.parent)
            is_ours = process.name.startswith(process_name(0)[:-1])
            is_supervisor = is_ours and above is not None and above.name == process.name
            kind = "the command"
            if is_ours:
                kind = "supervisor" if is_supervisor else "guard"
            if what == "the whole machine" or kind in what:
                yield process.pid
        if what == "the whole machine":
            for process in member.processes():
                yield from (each.pid for each in descendants(process.pid))


def has_settled(member):
    """Whether a member's runs have ended; a database that was struck is waited for."""
    try:
        return not member.active()
    except StoreError:
        return False


def command_of(name):
    return f"echo {name} > own.txt; seq 3000 > same.txt; yes {name} | head -c {LARGE} > large; sleep 0.1"


def made(record):
    """The files that a run has made whose command came to its end."""
    return made_by(record.spec.command[0].split()[1])


@cache
def made_by(name):
    same = "".join(f"{number}\n" for number in range(1, 3001)).encode()
    large = (f"{name}\n" * LARGE).encode()[:LARGE]
    return digests({"own.txt": f"{name}\n".encode(), "same.txt": same, "large": large})


@pytest.fixture
def team(project, address, store, extent, rng):
    objects = store.new_address()
    with running_team(project.parent, address, objects, heartbeat_s=extent.heartbeat_s) as members:
        yield Team(members, address, rng)


def test_what_was_committed_stays_and_nothing_else_shows(kill_round, team, rng, postgres, s3, project):
    done = {what: 0 for what in VICTIMS}
    while sum(done.values()) < KILLS:
        what = rng.choices(list(VICTIMS), VICTIMS.values())[0]
        struck, name, member, other = team.strike(what, postgres, s3)
        done[what] += struck
        records = assert_agreement(other, made, missing=team.unnumbered, newest=3)
        last = next((each for each in records if each.spec.command[0].split()[1] == name), None)
        if last is not None and last.outputs is None:
            assert other.call("ls", f"runs/{last.number}").returncode == 1
            if rng.random() < 0.5:
                member.call("recover", str(last.number))
    print(f"{sum(done.values())} kills: {done}")
    records = assert_agreement(team.members[0], made, missing=team.unnumbered)
    assert any(record.status is RunStatus.COMPLETE for record in records)
    assert_uploads_are_whole(team.members[0])
    assert_rebuilt(team, project, records)


def assert_uploads_are_whole(member):
    with member.files() as files:
        for row in files.index.uploads():
            assert files.find_faults(files.load(row.manifest)) == []


def assert_rebuilt(team, project, records):
    """Drop the database, and have a new member make it again from the object store."""
    member = team.members[0]
    with member.files() as files:
        while files.export_records():
            pass
        uploads = files.index.uploads()
    with psycopg.connect(team.address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    objects = read_team(member.home).objects
    new = Member(project.parent / "eve")
    new.do("team", "init", "--database", team.address, "--objects", objects)
    with open_database(new.home) as store:
        found = sorted(store.select(), key=lambda record: record.number)
    assert found == records
    with new.files() as files:
        assert files.index.uploads() == uploads
    assert_agreement(new, made, missing=team.unnumbered)
