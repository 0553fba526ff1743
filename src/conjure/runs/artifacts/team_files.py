"""Files of runs and uploads in a team's object store, and back.

Main entry: `TeamFiles`. A file of some size is an object of its own; small ones lie many to an object, a
pack, at a place that the manifest names. Invariant: a file appears in a folder whole, with the digest that
its manifest says, or not at all; and what a manifest in the store names was there when it was written.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from conjure.core.files import parse_json, sha256_bytes, sha256_file
from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings
from conjure.core.text import valid_utf8
from conjure.errors import StoreError
from conjure.runs.artifacts.manifest import Entry, Manifest
from conjure.runs.database.base import Database
from conjure.runs.database.postgres import PostgresDatabase
from conjure.runs.objects import base
from conjure.runs.objects.base import MissingObjectError, ObjectStore
from conjure.runs.objects.index import ObjectIndex, Place, UploadRow
from conjure.runs.objects.remote import open_objects

_SMALL_BYTES = 1 << 18  # from here on a file is an object of its own
_PACK_BYTES = 1 << 23
_PACKED_FILES = 4096
_AT_ONCE = 8
_FORMAT = 1


class DamagedObjectError(StoreError):
    """An object holds other bytes than were put into it."""


@dataclass(frozen=True, slots=True)
class SharedManifest:
    """A manifest, with where the contents lie.

    Attributes:
        manifest: The files.
        places: Digest -> pack and where in it, of the small ones.
    """

    manifest: Manifest
    places: Mapping[str, Place]

    def to_bytes(self) -> bytes:
        """As it is stored; `Manifest.load` can read it too."""
        content = {
            "format": _FORMAT,
            "digest_algorithm": "sha256",
            "files": [self._entry_to_dict(entry) for entry in self.manifest.entries],
            "skipped": [valid_utf8(phrase) for phrase in self.manifest.skipped],
        }
        return json.dumps(content, separators=(",", ":")).encode()

    def _entry_to_dict(self, entry: Entry) -> dict[str, Any]:
        place = self.places.get(entry.digest)
        packed = {} if place is None else {"pack": place.pack, "start": place.start}
        return entry.to_dict() | packed

    @classmethod
    def from_bytes(cls, stored: bytes) -> "SharedManifest":
        """What `to_bytes` wrote.

        Raises:
            StoreError: It is no manifest, or names a place outside its folder.
        """
        try:
            files = parse_json(stored)["files"]
            entries = tuple(map(Entry.from_dict, files))
            places = {
                str(file["digest"]): Place(int(file["size_bytes"]), str(file["pack"]), int(file["start"]))
                for file in files
                if "pack" in file
            }
            skipped = tuple(map(str, parse_json(stored)["skipped"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamagedObjectError(f"a list of files in the object store is damaged: {error}") from error
        _refuse_escapes(entries)
        return cls(Manifest(entries, skipped), places)

    def objects(self) -> set[str]:
        """The names of the objects that hold the contents."""
        packs = {base.pack(place.pack) for place in self.places.values() if place.pack is not None}
        return packs | {
            base.blob(entry.digest) for entry in _contents(self.manifest) if entry.digest not in self.places
        }


def _refuse_escapes(entries: Iterable[Entry]) -> None:
    """A manifest is a teammate's: nothing in it may be written elsewhere than in its folder."""
    links: set[PurePosixPath] = set()
    paths = []
    for entry in entries:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in entry.path:
            raise DamagedObjectError(f"a list of files names {entry.path!r}, which is outside its folder")
        paths.append(path)
        if entry.target is not None:
            links.add(path)
    if links and any(parent in links for path in paths for parent in path.parents):
        raise DamagedObjectError("a list of files contains a file below a link")


def _refuse_links(folder: Path, entries: Iterable[Entry]) -> None:
    """Nothing is written below a link in a folder: another manifest than this one may have left it there."""
    nearest = {PurePosixPath(entry.path).parent for entry in entries}
    parents = nearest.union(*(path.parents for path in nearest))
    for parent in parents - {PurePosixPath()}:
        if (folder / parent).is_symlink():
            raise DamagedObjectError(f"{folder / parent} is a link, and the list of files has it as a folder")


def _contents(manifest: Manifest) -> Iterator[Entry]:
    return (entry for entry in manifest.entries if entry.target is None and entry.digest)


class TeamFiles:
    """A team's files. Use one object per thread.

    Args of the constructor:
        objects: Where the bytes are.
        database: Where it is known what there is.

    Attributes:
        sent: How many objects with contents were sent, and will not be sent again.
    """

    def __init__(self, objects: ObjectStore, database: PostgresDatabase) -> None:
        self.sent = 0
        self.objects = objects
        self.database = database
        self.index = ObjectIndex(database.session)

    @classmethod
    @contextmanager
    def of(
        cls, home: Home, team: TeamSettings, *, tries: int | None = None, store: Database | None = None
    ) -> Iterator[Self]:
        """Those of a team that has an object store."""
        assert team.objects is not None
        objects = open_objects(team.objects) if tries is None else open_objects(team.objects, tries=tries)
        if store is not None:
            assert isinstance(store, PostgresDatabase)
            yield cls(objects, store)
        else:
            with PostgresDatabase.open(home, team.database) as database:
                yield cls(objects, database)

    # ---- there ---------------------------------------------------------------------------------------------

    def store(self, folder: Path, manifest: Manifest) -> str:
        """Put the files of a folder into the store, but for those that are there.

        Returns:
            The digest of the list of them in the store: what it takes to find them again.

        Raises:
            ObjectsError: The store cannot be reached; what was sent stays, and is not sent again.
            StoreError: The database cannot be reached, or a file changed since its manifest was taken.
            OSError: A file cannot be read.
        """
        wanted = {entry.digest: entry for entry in _contents(manifest)}
        found = self.index.use(map(base.blob, wanted))
        places = {name.rpartition("/")[2]: place for name, place in found.items()}
        missing = [entry for digest, entry in wanted.items() if digest not in places]
        large = [entry for entry in missing if entry.size_bytes >= _SMALL_BYTES]
        small = [entry for entry in missing if entry.size_bytes < _SMALL_BYTES]
        with _Sender(self) as sender:
            for entry in large:
                sender.send_file(entry.digest, folder / entry.path, entry.size_bytes)
            for group in _groups(small):
                places |= sender.send_pack(folder, group)
        packed = {digest: place for digest, place in places.items() if place.pack is not None}
        return self.put_manifest(SharedManifest(manifest, packed))

    def put_manifest(self, shared: SharedManifest) -> str:
        """Put a manifest into the store; its digest."""
        content = shared.to_bytes()
        digest = sha256_bytes(content)
        name = base.manifest(digest)
        if not self.index.use([name]):
            self.index.claim([name])
            self.objects.put(name, content)
            self.index.add({name: Place(len(content))})
        return digest

    def store_file(self, path: Path, digest: str) -> None:
        """Put one file into the store by its digest, unless it is there as an object of its own."""
        name = base.blob(digest)
        found = self.index.use([name]).get(name)
        if found is None or found.pack is not None:
            with _Sender(self) as sender:
                sender.send_file(digest, path, path.stat().st_size)

    def new_upload(self, **row: Any) -> bool:
        """Let the team see a version of an upload whose files are stored; False if its number is taken."""
        return self.add_upload(UploadRow(**row))

    def add_upload(self, upload: UploadRow) -> bool:
        """As `new_upload`."""
        if not self.index.add_upload(upload):
            return False
        with suppress(base.ObjectsError):  # others see it; the next command or run brings its record there
            self.export_upload(upload)
        return True

    def remove_upload(self, name: str, version: int) -> None:
        """Let nobody see a version of an upload any more."""
        self.index.remove_upload(name, version)
        for row in self.index.uploads(name):
            if row.version == version:
                with suppress(base.ObjectsError):
                    self.export_upload(row)

    def export_upload(self, row: UploadRow) -> None:
        """Have the record of a version in the store, or not any more, as its row says."""
        name = base.upload_object(row.name, row.version)
        if row.removed:
            self.objects.delete([name])
        else:
            self.objects.put(name, json.dumps(asdict(row)).encode())
        self.index.note_upload_exported(row)

    # ---- and back ------------------------------------------------------------------------------------------

    def load(self, digest: str) -> SharedManifest:
        """A manifest of that digest.

        Raises:
            MissingObjectError: It is not in the store.
            StoreError: It cannot be had, or is damaged.
        """
        content = self.objects.get(base.manifest(digest))
        if sha256_bytes(content) != digest:
            raise DamagedObjectError(f"{base.manifest(digest)} in {self.objects.address} is damaged")
        return SharedManifest.from_bytes(content)

    def fetch(self, shared: SharedManifest, folder: Path, parts: Sequence[str] = ()) -> None:
        """Bring files into a folder, but for those that are in it already.

        Args:
            shared: Which files there are.
            folder: Where their paths begin; made if missing.
            parts: Only what lies at or below this path; everything where there are links, which may lead
                anywhere among the files.

        Raises:
            StoreError: Something cannot be had, or is damaged.
            OSError: The disk is full.
        """
        entries = shared.manifest.entries
        if parts and not any(entry.target is not None for entry in entries):
            entries = [entry for entry in entries if _is_below(entry.path, parts)]
        _refuse_links(folder, entries)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [entry for entry in entries if not os.path.lexists(folder / entry.path)]
        for parent in {(folder / entry.path).parent for entry in wanted}:
            parent.mkdir(parents=True, exist_ok=True)
        alone: list[Entry] = []
        packs: dict[str, list[Entry]] = {}
        for entry in wanted:
            place = shared.places.get(entry.digest)
            if entry.target is not None:
                _link(folder / entry.path, entry.target)
            elif place is not None and place.pack is not None:
                packs.setdefault(place.pack, []).append(entry)
            elif entry.digest:
                alone.append(entry)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            tasks = [threads.submit(self._fetch_alone, entry, folder) for entry in alone]
            tasks += [
                threads.submit(self._fetch_packed, pack, group, shared.places, folder)
                for pack, group in packs.items()
            ]
            _all_done(tasks)

    def fetch_file(self, digest: str, path: Path, *, mode: int = 0o444) -> None:
        """Bring one file by its digest to a path.

        Raises:
            MissingObjectError: It is not in the store.
            StoreError: It cannot be had, or is damaged.
            OSError: The disk is full.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        hasher = hashlib.sha256()
        with _appearing(path, mode) as file:
            for piece in self.objects.pieces(base.blob(digest)):
                hasher.update(piece)
                file.write(piece)
            if hasher.hexdigest() != digest:
                raise DamagedObjectError(f"{base.blob(digest)} in {self.objects.address} is damaged")

    def _fetch_alone(self, entry: Entry, folder: Path) -> None:
        self.fetch_file(entry.digest, folder / entry.path, mode=entry.mode)

    def _fetch_packed(
        self, pack: str, entries: list[Entry], places: Mapping[str, Place], folder: Path
    ) -> None:
        for entry, content in self._unpack(pack, entries, places):
            if sha256_bytes(content) != entry.digest:
                raise DamagedObjectError(
                    f"{base.pack(pack)} in {self.objects.address} is damaged at {valid_utf8(entry.path)}"
                )
            with _appearing(folder / entry.path, entry.mode) as file:
                file.write(content)

    def _unpack(
        self, pack: str, entries: list[Entry], places: Mapping[str, Place]
    ) -> Iterator[tuple[Entry, bytes]]:
        start = min(places[entry.digest].start for entry in entries)
        end = max(places[entry.digest].start + entry.size_bytes for entry in entries)
        content = self.objects.get_range(base.pack(pack), start, end - start) if end > start else b""
        for entry in entries:
            begin = places[entry.digest].start - start
            yield entry, content[begin : begin + entry.size_bytes]

    def find_faults(self, shared: SharedManifest) -> list[str]:
        """Read every byte of the files again: what is missing or damaged, one phrase per file."""
        packs: dict[str, list[Entry]] = {}
        alone: list[Entry] = []
        for entry in _contents(shared.manifest):
            place = shared.places.get(entry.digest)
            if place is None or place.pack is None:
                alone.append(entry)
            else:
                packs.setdefault(place.pack, []).append(entry)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(self._fault_alone, alone))
            found += threads.map(lambda pack: self._faults_packed(pack, packs[pack], shared.places), packs)
        return sorted(fault for faults in found for fault in faults)

    def _fault_alone(self, entry: Entry) -> list[str]:
        hasher = hashlib.sha256()
        try:
            for piece in self.objects.pieces(base.blob(entry.digest)):
                hasher.update(piece)
        except MissingObjectError:
            return [f"{valid_utf8(entry.path)} is missing"]
        return [] if hasher.hexdigest() == entry.digest else [f"{valid_utf8(entry.path)} was changed"]

    def _faults_packed(self, pack: str, entries: list[Entry], places: Mapping[str, Place]) -> list[str]:
        try:
            return [
                f"{valid_utf8(entry.path)} was changed"
                for entry, content in self._unpack(pack, entries, places)
                if sha256_bytes(content) != entry.digest
            ]
        except base.ObjectsError:
            return [f"{valid_utf8(entry.path)} is missing" for entry in entries]


class _Sender:
    """Sends contents from several threads; their rows are written here, after the objects."""

    def __init__(self, files: TeamFiles) -> None:
        self._files = files
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._sending: dict[Future[None], dict[str, Place]] = {}

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._collect(leave=0)
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)
            with suppress(StoreError):  # then it is sent again
                self._note_sent()

    def _note_sent(self) -> None:
        """Write down what came there beside something that did not."""
        for task, rows in self._sending.items():
            if not task.cancelled() and task.exception() is None:
                self._note(rows)

    def _note(self, rows: dict[str, Place]) -> None:
        self._files.index.add(rows)
        self._files.sent += 1

    def send_file(self, digest: str, path: Path, size_bytes: int) -> None:
        name = base.blob(digest)

        def send() -> None:
            before = path.stat()
            if sha256_file(path) != digest:
                raise StoreError(f"{path} is damaged, or changed while it was being saved")
            self._files.objects.put_file(name, path)
            after = path.stat()
            if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
                raise StoreError(f"{path} changed while it was being saved")

        self._send({name: Place(size_bytes)}, send)

    def send_pack(self, folder: Path, entries: Sequence[Entry]) -> dict[str, Place]:
        """Send small files as one object; where each lies in it."""
        contents = []
        for entry in entries:
            content = (folder / entry.path).read_bytes()
            if sha256_bytes(content) != entry.digest:
                raise StoreError(f"{folder / entry.path} changed while it was being saved")
            contents.append(content)
        packed = b"".join(contents)
        digest, start = sha256_bytes(packed), 0
        places: dict[str, Place] = {}
        for entry in entries:
            places[entry.digest] = Place(entry.size_bytes, digest, start)
            start += entry.size_bytes
        name = base.pack(digest)
        rows = {name: Place(len(packed))} | {base.blob(each): place for each, place in places.items()}
        self._send(rows, lambda: self._files.objects.put(name, packed))
        return places

    def _send(self, rows: dict[str, Place], send: Any) -> None:
        self._collect(leave=_AT_ONCE - 1)
        self._files.index.claim(rows)
        self._sending[self._threads.submit(send)] = rows

    def _collect(self, *, leave: int) -> None:
        """Wait until at most so many are under way."""
        while len(self._sending) > leave:
            done, _ = wait(self._sending, return_when=FIRST_COMPLETED)
            for task in done:
                rows = self._sending.pop(task)
                task.result()
                self._note(rows)


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (size + entry.size_bytes > _PACK_BYTES or len(group) == _PACKED_FILES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size_bytes
    if group:
        yield group


def _is_below(path: str, parts: Sequence[str]) -> bool:
    found = PurePosixPath(path).parts
    return found[: len(parts)] == tuple(parts)


def _all_done(tasks: Iterable[Future[None]]) -> None:
    """Wait for all, and raise the first error."""
    tasks = list(tasks)
    wait(tasks)
    for task in tasks:
        task.result()


def _link(path: Path, target: str) -> None:
    try:
        path.symlink_to(target)
    except FileExistsError:
        if not path.is_symlink():
            raise


@contextmanager
def _appearing(path: Path, mode: int) -> Iterator[Any]:
    """A file to write to, which is at its path when the block has ended well, and nowhere otherwise."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".fetch-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            os.fchmod(descriptor, mode & 0o777)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
