"""A team without servers: its records in an SQLite file, its files in a folder, for tests in this process.

Main entry: `LocalTeam`. What a member does is real; only the index of the object store, which speaks
PostgreSQL alone, is kept in memory here.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, objects_team
from conjure.runs.artifacts import team_files
from conjure.runs.artifacts.team_runs import TeamRuns
from conjure.runs.artifacts.team_transfer import shared_files
from conjure.runs.database import open_database
from conjure.runs.database.migrations import migrate
from conjure.runs.database.open_database import share
from conjure.runs.database.sqlite import SqliteDatabase, SqliteSession
from conjure.runs.database.sqlite_connection import connect, translate_errors
from conjure.runs.objects.index import Place, Streams, UploadRow


class SharedSqlite(SqliteDatabase):
    """A database that several homes share; its address is the path of its file."""

    is_shared = True

    @classmethod
    def open(cls, home: Home, address: str) -> "SharedSqlite":  # type: ignore[override]
        with translate_errors(home):
            connection = connect(Path(address))
            migrate(connection)
            return cls(SqliteSession(home, connection, time.time))

    @property
    def session(self) -> Any:
        return self._session


class MemoryIndex:
    """What `ObjectIndex` does for one process and its children.

    Attributes:
        changed: Runs whose record in the store may be older than their row.
    """

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._streams: dict[int, Streams] = {}
        self._uploads: list[UploadRow] = []
        self.changed: set[int] = set()

    def use(self, names: Iterable[str]) -> dict[str, Place]:
        return {name: self._places[name] for name in names if name in self._places}

    def claim(self, names: Iterable[str]) -> None:
        pass

    def add(self, places: Mapping[str, Place]) -> None:
        self._places.update(places)

    def set_streams(self, number: int, streams: Streams) -> None:
        self._streams[number] = streams

    def streams(self, number: int) -> Streams | None:
        return self._streams.get(number)

    def add_upload(self, row: UploadRow) -> bool:
        if (row.name, row.version) in [(each.name, each.version) for each in self._uploads]:
            return False
        self._uploads.append(row)
        return True

    def uploads(self, name: str | None = None) -> list[UploadRow]:
        return [row for row in self._uploads if name in (None, row.name) and row.is_sound()]

    def remove_upload(self, name: str, version: int) -> None:
        self._uploads = [
            replace(row, removed=row.removed or (row.name, row.version) == (name, version))
            for row in self._uploads
        ]

    def note_upload_exported(self, _row: UploadRow) -> None:
        pass

    def unexported_uploads(self, _limit: int) -> list[Any]:
        return []

    def unexported(self, limit: int) -> list[tuple[int, int]]:
        return [(number, 1) for number in sorted(self.changed)[:limit]]

    def note_exported(self, number: int, version: int) -> None:
        pass  # it may have changed again, which the other database notes by itself


class LocalTeam:
    """A team whose members are homes on this machine.

    Args:
        folder: Where its database and its objects are.
        monkeypatch: Has conjure use what stands in for PostgreSQL until the test is over.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects = folder / "objects"
        self.database = folder / "team.db"
        self.index = MemoryIndex()
        monkeypatch.setattr(open_database, "_postgres_database", lambda: SharedSqlite)
        monkeypatch.setattr(team_files, "PostgresDatabase", SharedSqlite)
        monkeypatch.setattr(team_files, "ObjectIndex", lambda _: self.index)

    def join(self, home: Home) -> Home:
        """Have a home belong to the team."""
        share(home.create(), TeamSettings(str(self.database), self.objects.as_uri()))
        return home

    def files(self, home: Home) -> Any:
        """What the team shares, as a member reaches it: a context manager with `TeamRuns`."""
        team = objects_team(home)
        assert team is not None
        return shared_files(home, team)

    def read(self, home: Home, digest: str) -> dict[str, bytes]:
        """The files of a manifest in the object store, by path."""
        with self.files(home) as files:
            return _read(files, digest)


def _read(files: TeamRuns, digest: str) -> dict[str, bytes]:
    shared = files.load(digest)
    found = {}
    for entry in shared.manifest.entries:
        place = shared.places[entry.digest]
        assert place.pack is not None
        (content,) = (content for _, content in files._unpack(place.pack, [entry], shared.places))
        found[entry.path] = content
    return found
