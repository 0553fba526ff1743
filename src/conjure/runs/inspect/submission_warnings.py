"""What a command relies on here and will not find in its run, said before it is missed.

Main entry: `submission_warnings`. Invariant: it only looks; whatever it cannot find out, it leaves unsaid.
"""

import fcntl
import os
import shlex
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from conjure.core.quoting import shell_words
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
        fix = f"-m {shell_words(f'./{name}')}" if path.is_file() else _upload(path)
        if name in ignored:
            yield f"git ignores {name}, so it is missing from the run; {fix} adds it"
        elif path.is_symlink() and not path.resolve().is_relative_to(_root(spec.folder)):
            where = f"{name} is a link to {path.readlink()}, outside this folder"
            yield f"{where}, and is broken in the run; {fix} adds its target"


def _upload(path: Path) -> str:
    mount = f"uploads/{path.resolve().name}:{path.name}"  # what a link leads to gives an upload its name
    return f"`conjure upload {shell_words(str(path))}` and -m {shell_words(mount)}"


def _names(spec: RunSpec) -> Iterator[str]:
    """Words of the command that are files here, and the first folder of each."""
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
                first = name.split("/")[0]
                yield first if (spec.folder / first).is_symlink() else name


def _ignored(folder: Path, names: list[str]) -> set[str]:
    if not names:
        return set()
    try:
        done = subprocess.run(
            ["git", "check-ignore", "-z", "--stdin"],
            cwd=folder,
            input=b"\0".join(map(os.fsencode, names)) + b"\0",
            capture_output=True,
            check=False,
        )
    except OSError:
        return set()
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}


def _root(folder: Path) -> Path:
    """The top of the folder's repository, or the folder."""
    folder = folder.resolve()
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)
