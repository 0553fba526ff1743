"""Copying ended runs of one home into a team's, under new numbers.

Main entry: `push`. Invariant: a run is copied once, whoever asks again: its copy has a label that names the
original; and what it was given comes along, so that a copy names only runs and uploads of the team.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conjure.core.home import Home
from conjure.core.team_settings import objects_team, read_team
from conjure.errors import ConflictError, StoreError, UsageError
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.artifacts.team_runs import TeamRuns
from conjure.runs.artifacts.team_transfer import shared_files
from conjure.runs.artifacts.uploads import read_upload
from conjure.runs.database.base import Database, RunFilter
from conjure.runs.database.open_database import open_database
from conjure.runs.host.process import host_id, machine_id
from conjure.runs.maintenance.team import send_files
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import MountFacts, RunRecord
from conjure.runs.schema.resource import RUNS, UPLOADS, Resource
from conjure.runs.schema.run_folder import MANIFEST
from conjure.runs.telemetry.metrics import metric_summaries, read_points


@dataclass(frozen=True, slots=True)
class Pushed:
    """A run's number in its home, the one of its copy, and whether that was made just now."""

    old: int
    new: int
    is_new: bool


def push(source: Home, target: Home, numbers: Sequence[int] = ()) -> Iterator[Pushed]:
    """Copy runs, oldest first, each with the runs that it was given something of.

    Args:
        source: The home that has them.
        target: A team's, whose files are in an object store.
        numbers: Which; all that have ended if none are given.

    Raises:
        UsageError: Both are the same, or `target` is no such home.
        NotFoundError: There is no such run.
        ConflictError: One of them has not ended.
        StoreError: The database or the object store cannot be reached.
    """
    team = objects_team(target)
    if team is None:
        raise UsageError(
            "the home to copy into has no object store",
            hint="choose one that has: conjure --home NAME team push",
        )
    if source == target or not source.database.exists():
        raise UsageError(f"there is nothing to copy from {source.root}")
    with open_database(source) as database, shared_files(target, team) as files:
        if read_team(source) == team:
            raise UsageError("both homes already share the same records")
        pushing = _Push(source, database, files, _origin(source))
        for number in sorted(numbers) or _ended(database):
            if not database.get(number).status.is_final:
                raise ConflictError(f"run {number} has not ended", fix=f"conjure wait {number}")
            yield from pushing.push(number)
        while files.export_records():
            pass


def _ended(database: Database) -> list[int]:
    return sorted(run.number for run in database.select(RunFilter(archived=True)) if run.status.is_final)


def _origin(home: Home) -> str:
    """What tells a home's runs from all others': the machine and the folder, without saying either."""
    owner = Owner(machine_id(home), "", 1, "")
    return owner.member or f"{host_id()[:6]}:{home.name}"


class _Push:
    """One call of `push`.

    Args:
        source: The home that has the runs.
        database: Its database.
        files: The team's store.
        origin: The home in labels of copies.
    """

    def __init__(self, source: Home, database: Database, files: TeamRuns, origin: str) -> None:
        self._source = source
        self._database = database
        self._files = files
        self._origin = origin
        self._known = self._copies()
        self._uploads: dict[str, str] = {}

    def _label(self, number: int) -> str:
        return f"from {self._origin} #{number}"

    def _copies(self) -> dict[int, int]:
        prefix = self._label(0)[:-1]
        return {
            int(label.removeprefix(prefix)): record.number
            for record in self._files.database.select(RunFilter(archived=True))
            for label in record.labels
            if label.startswith(prefix) and label.removeprefix(prefix).isdecimal()
        }

    def push(self, number: int) -> Iterator[Pushed]:
        """Copy a run, those before it that it needs first."""
        if number in self._known:
            if self._files.index.streams(self._known[number]) is None:  # its copying was cut off
                self._copy_log_and_metrics(number, self._known[number])
            yield Pushed(number, self._known[number], False)
            return
        record = self._database.get(number)
        for mount in record.mounts:
            needed = Resource.of_source(mount.source).number
            if needed is not None and needed != number:
                yield from (each for each in self.push(needed) if each.is_new)
        new = self._copy(record)
        self._known[number] = new
        yield Pushed(number, new, True)

    def _copy(self, record: RunRecord) -> int:
        files = self._files
        digest = send_files(self._source, files, record)
        outputs = record.outputs
        if outputs is not None:
            outputs = replace(outputs, manifest=digest, removed=outputs.removed or digest is None)
        owner = record.owner
        new = files.database.session.reserve_number()
        labels = (*record.labels, self._label(record.number))
        code = record.spec.code
        if code.run is not None:
            code = replace(code, run=self._known.get(code.run))
        files.database.put_record(
            replace(
                record,
                number=new,
                spec=replace(record.spec, labels=labels, after=(), code=code),
                mounts=tuple(map(self._translated, record.mounts)),
                outputs=outputs,
                owner=owner,
                parent=self._known.get(record.parent or 0),
                rerun_of=self._known.get(record.rerun_of or 0),
            )
        )
        self._copy_log_and_metrics(record.number, new)
        return new

    def _copy_log_and_metrics(self, number: int, new: int) -> None:
        folder = self._source.run_folder(number)
        self._files.database.set_summaries(new, metric_summaries(read_points(folder)).values())
        self._files.send_streams(folder, new, 0)

    def _translated(self, mount: MountFacts) -> MountFacts:
        """A mount as the team names it."""
        source = Resource.of_source(mount.source)
        if source.number is not None:
            source = Resource(RUNS, str(self._known[source.number]), None, source.parts)
        elif source.kind == UPLOADS:
            return replace(mount, source="/".join((self._upload(source), *source.parts)))
        return replace(mount, source=str(source))

    def _upload(self, source: Resource) -> str:
        """An upload's version, copied where the team has none with the same files: its name there."""
        if source.owner not in self._uploads:
            self._uploads[source.owner] = self._copy_upload(source.name, source.version or 1)
        return self._uploads[source.owner]

    def _copy_upload(self, name: str, version: int) -> str:
        kept = read_upload(self._source, name, version)
        place = self._source.uploads / name / str(version)
        content = next((each for each in _contents(place) if each.is_dir()), None)
        if content is None:
            raise StoreError(f"{place} is damaged: it has no files")
        digest = self._files.store(content, Manifest.load(place / MANIFEST))
        there = self._files.index.uploads(name)
        same = next((row for row in there if row.manifest == digest and not row.removed), None)
        if same is not None:
            return f"{UPLOADS}/{name}@{same.version}"
        new = max((row.version for row in there), default=0) + 1
        while not self._files.new_upload(
            name=name,
            version=new,
            kind=content.name,
            files=kept.files,
            size_bytes=kept.size_bytes,
            created_at=kept.created_at,
            source=kept.source,
            manifest=digest,
        ):
            new += 1
        return f"{UPLOADS}/{name}@{new}"


def _contents(place: Path) -> tuple[Path, Path]:
    return place / "folder", place / "file"
