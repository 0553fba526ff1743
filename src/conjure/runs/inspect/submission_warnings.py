"""What a command relies on here and will not find in its run, said before it is missed.

Main entry: `submission_warnings`. Invariant: it only looks; whatever it cannot find out, it leaves unsaid.
"""

import fcntl
import os
import posixpath
import shlex
import stat
import struct
import sys
import termios
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from conjure.core.files import real_path
from conjure.core.home_selection import with_home
from conjure.core.quoting import shell_words
from conjure.errors import SnapshotError
from conjure.runs.code.git import users_git
from conjure.runs.schema.spec import RunSpec

_MOST_NAMES = 200


def submission_warnings(spec: RunSpec) -> Iterator[str]:
    """Notes on a run that is about to be submitted, one sentence each."""
    if _has_input():
        yield "standard input is not passed to the run; save it to a file and mount it with -m"
    choice = spec.code
    if choice == type(choice)():
        yield from _left_out(spec)


def _has_input() -> bool:
    """Whether a file or pipe with something in it stands on standard input."""
    try:
        descriptor = sys.stdin.fileno()
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode):
            return facts.st_size > 0
        if not stat.S_ISFIFO(facts.st_mode):
            return False
        return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0] > 0
    except (OSError, ValueError, AttributeError):
        return False


def _left_out(spec: RunSpec) -> Iterator[str]:
    """Files and folders that the command names and git ignores, and links among them that lead out."""
    mounted = {mount.target for mount in spec.mounts}
    names = [name for name in dict.fromkeys(_names(spec)) if name not in mounted][:_MOST_NAMES]
    ignored = _ignored(spec.folder, names)
    for name in names:
        path = spec.folder / name
        is_file = os.path.isfile(path)  # noqa: PTH113 - false, too, where a link leads to what is closed to us
        fix = f"-m {_mount(f'./{name}', name)}" if is_file else _upload(path, name)
        if name in ignored:
            yield f"git ignores {name}, so it is missing from the run; {fix} adds it"
        elif path.is_symlink() and not real_path(path).is_relative_to(_root(spec.folder)):
            where = f"{name} is a link to {path.readlink()}, outside this folder"
            yield f"{where}, and is broken in the run; {fix} adds its target"


def _upload(path: Path, name: str) -> str:
    resource = f"uploads/{real_path(path).name}"  # what a link leads to gives an upload its name
    upload = with_home(f"conjure upload {shell_words(str(path))}")
    return f"`{upload}` and -m {_mount(resource, name)}"


def _mount(resource: str, name: str) -> str:
    return shell_words(resource if posixpath.basename(resource) == name else f"{resource}:{name}")


def _names(spec: RunSpec) -> Iterator[str]:
    """Words of the command that are files here; of one that lies beyond a link, the link."""
    words: list[str] = []
    for word in spec.command:
        try:
            words += shlex.split(word) if len(spec.command) == 1 else [word]
        except ValueError:
            words += word.split()
    for word in words:
        for text in (word, word.partition("=")[2]):
            name = text.removeprefix("./").rstrip("/;")
            if not name or name.startswith(("/", "-", "../", "~")) or "\0" in name:
                continue
            if os.path.lexists(spec.folder / name):
                yield _first_link(spec.folder, name) or name


def _first_link(folder: Path, name: str) -> str | None:
    """The link that comes first on the way to a name, or None."""
    ways = accumulate(name.split("/"), posixpath.join)
    return next((way for way in ways if (folder / way).is_symlink()), None)


def _ignored(folder: Path, names: list[str]) -> set[str]:
    """Those names that git ignores; what lies in a submodule is left out."""
    ignored = set()
    while names:
        told = list(_told(folder, names))
        ignored.update(name for pattern, name in told if pattern and not pattern.startswith("!"))
        # git stops at a name in a submodule. It takes every name without a folder, if this is a repository.
        refused = names[len(told) :][:1]
        parent = posixpath.dirname(refused[0]) if refused else ""
        names = [name for name in names[len(told) + 1 :] if parent and not name.startswith(f"{parent}/")]
    return ignored


def _told(folder: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """The pattern of git's that says what becomes of a name, and the name, as far as git answers."""
    try:
        process = users_git(folder).start("check-ignore", "-z", "--stdin", "--verbose", "--non-matching")
    except SnapshotError:
        return
    with process:
        output, _ = process.communicate(b"\0".join(map(os.fsencode, names)) + b"\0")
    fields = os.fsdecode(output).split("\0")[:-1]
    yield from zip(fields[2::4], fields[3::4], strict=False)


def _root(folder: Path) -> Path:
    """The top of the folder's repository, or the folder."""
    folder = folder.resolve()
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)
