"""Git repositories for tests, made without the machine's own git settings."""

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from conjure.core.dir_fd import Folder
from conjure.core.home import Home
from conjure.runs.code import snapshot

_VARIABLES = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@localhost",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@localhost",
}


def run_git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` and return what it printed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(
        command, env=variables | _VARIABLES, check=True, capture_output=True, text=True
    ).stdout.strip()


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below `folder`, making folders as needed."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_files(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its content; links as ``-> target``."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes().decode(errors="backslashreplace")
    return found


def files_with(folder: Path, text: str) -> list[Path]:
    """Files below `folder` that contain a text; one that somebody removes meanwhile is none."""
    found = []
    for parent, _, names in os.walk(folder):  # passes over what goes meanwhile
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and text.encode() in path.read_bytes():
                    found.append(path)
    return found


def make_repository(folder: Path, files: Mapping[str, str | bytes]) -> str:
    """Make a repository with one commit of `files`; the commit's name."""
    folder.mkdir(parents=True, exist_ok=True)
    run_git(folder, "init", "-q", "-b", "main", "--template=")
    write_files(folder, files)
    return commit_all(folder)


def commit_all(folder: Path, message: str = "files") -> str:
    """Commit everything in `folder`; the commit's name."""
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return run_git(folder, "rev-parse", "HEAD")


def check_out(home: Home, tree: str, destination: Path) -> None:
    """Write a snapshot's files into a folder, made if missing."""
    destination.mkdir(parents=True, exist_ok=True)
    with Folder.open(destination) as folder:
        snapshot.checkout(home, tree, folder)
