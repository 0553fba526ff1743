"""A run's folder with its working folder and outputs: each opened once, and known again by its inode.

A command may move these folders away and put a link, or another folder, in their place. What has been opened
goes on meaning the run's own, and before anything is collected or removed it is compared with what stands
there now. The inodes are written down in the run's folder, so that another process can compare too.

Main entry: `RunFolders`. Invariant: a folder that is not the one this run was given is neither read for its
outputs, nor written to, nor removed.
"""

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from conjure.core.dir_fd import Folder, FolderId, clear
from conjure.core.files import parse_json, write_atomically
from conjure.errors import ConflictError
from conjure.runs.schema.run_folder import FOLDERS_FILE, OUTPUTS, WORK

_WORDS = {WORK: "working folder", OUTPUTS: "outputs folder"}
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)


class RunFolders:
    """The folders of one run; a context manager that closes them.

    Args:
        path: The run's folder.

    Raises:
        ConflictError: Something else, such as a link, stands in its place.
        FileNotFoundError: It is not there.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.run = Folder.open(path)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                raise _replaced("folder", "something else") from error
            raise
        self._held: dict[str, Folder] = {}
        self._noted = _read_notes(self.run)

    def make_work(self) -> Folder:
        """Make the working folder, and write down which it is.

        Raises:
            OSError: Something stands there already, the disk is full …
        """
        return self._make(WORK)

    def open_work(self) -> Folder:
        """The working folder, as it was made.

        Raises:
            ConflictError: Another one stands in its place.
            FileNotFoundError: It is not there.
        """
        return self._open(WORK)

    def open_outputs(self) -> Folder:
        """The outputs folder: the one that an earlier attempt made, or a new one.

        Raises:
            ConflictError: Something else stands in its place.
            OSError: The disk is full …
        """
        made_before = OUTPUTS in self._noted if self._noted else self.run.id_of(OUTPUTS) is not None
        if made_before:
            return self._open(OUTPUTS)
        with suppress(OSError):  # an attempt was cut off before it could write down which it made
            os.rmdir(OUTPUTS, dir_fd=self.run.descriptor)
        try:
            return self._make(OUTPUTS)
        except FileExistsError as error:
            raise self._refusal(OUTPUTS) from error

    def check(self) -> None:
        """See that the run's own folders still stand where they were made.

        Raises:
            ConflictError: Something else does, or nothing.
        """
        for name, held in self._held.items():
            if self.run.id_of(name) != held.id:
                raise self._refusal(name)
        try:
            now = FolderId.of(self.run.path.lstat())
        except FileNotFoundError:
            now = None
        if now != self.run.id:
            raise _replaced("folder", "nothing" if now is None else "something else")

    def remove_work(self) -> bool:
        """Remove the working folder if it is still the run's own, and say whether it was.

        Raises:
            OSError: Something in it cannot be removed.
        """
        try:
            clear(self._open(WORK))
            os.rmdir(WORK, dir_fd=self.run.descriptor)
        except (ConflictError, FileNotFoundError):
            return False
        return True

    def close(self) -> None:
        """Let go of them."""
        for folder in (*self._held.values(), self.run):
            folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, name: str) -> Folder:
        made = self._held[name] = self.run.make_in(name)
        self._noted[name] = made.id
        noted = {name: [folder.device, folder.inode] for name, folder in self._noted.items()}
        own = [self.run.id.device, self.run.id.inode]
        text = json.dumps({"run": own, "folders": noted})
        write_atomically(self.run.here / FOLDERS_FILE, text, mode=0o600)
        return made

    def _open(self, name: str) -> Folder:
        if name in self._held:
            if self.run.id_of(name) != self._held[name].id:
                raise self._refusal(name)
            return self._held[name]
        try:
            opened = self.run.open_in(name)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                raise self._refusal(name) from error
            raise
        if self._noted and self._noted.get(name) != opened.id:  # without notes: a run of conjure 0.1
            opened.close()
            raise self._refusal(name)
        self._held[name] = opened
        return opened

    def _refusal(self, name: str) -> ConflictError:
        facts = None
        with suppress(FileNotFoundError):
            facts = os.stat(name, dir_fd=self.run.descriptor, follow_symlinks=False)
        return _replaced(_WORDS[name], _described(facts))


def _described(facts: os.stat_result | None) -> str:
    if facts is None:
        return "nothing"
    return {stat.S_IFLNK: "a link", stat.S_IFDIR: "another folder"}.get(stat.S_IFMT(facts.st_mode), "a file")


def check_run_folder(path: Path, undone: str = "saved") -> None:
    """Refuse what stands in the place of a run's folder; that there is nothing is no error.

    Args:
        path: The run's folder.
        undone: What is therefore not done with the files.

    Raises:
        ConflictError: Something else, such as a link, stands in its place.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise _replaced("folder", "something else", undone)


def _replaced(what: str, now: str, undone: str = "saved") -> ConflictError:
    change = "moved away or removed" if now == "nothing" else f"replaced by {now}"
    return ConflictError(
        f"the run's {what} was {change}, so nothing was {undone}; what is there now was not changed"
    )


def _read_notes(run: Folder) -> dict[str, FolderId]:
    """Which folders were made for a run; none for one of conjure 0.1, or in a home that was copied."""
    try:
        stored = parse_json((run.here / FOLDERS_FILE).read_bytes())
        noted = {name: FolderId(*numbers) for name, numbers in stored["folders"].items()}
        own = FolderId(*stored["run"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    if own.inode != run.id.inode:
        return {}  # a copy of the run's folder: its inodes are new, too
    # A disk may have another number once it is mounted again, while its inodes keep theirs.
    return {name: FolderId(run.id.device, folder.inode) for name, folder in noted.items()}
