"""Calling git, for the user's repositories and for conjure's own.

Main entries: `users_git`, `own_git`. Invariant: no command started here writes to a user's repository, asks a
question on the terminal, or runs a hook.
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

from conjure.core.secrets import redact_text
from conjure.core.text import error_text
from conjure.errors import SnapshotError

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git knows it without having it
GITLINK = b"160000"  # the mode of a submodule in a tree and in an index

# What ties a git process to one repository (`git rev-parse --local-env-vars`): set when conjure is called
# from a hook, and wrong for every other repository.
_LOCAL_VARIABLES = frozenset(
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES",
        "COMMON_DIR",
        "CONFIG",
        "CONFIG_PARAMETERS",
        "DIR",
        "GRAFT_FILE",
        "IMPLICIT_WORK_TREE",
        "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX",
        "NAMESPACE",
        "NO_REPLACE_OBJECTS",
        "OBJECT_DIRECTORY",
        "PREFIX",
        "REPLACE_REF_BASE",
        "SHALLOW_FILE",
        "WORK_TREE",
    )
)
_NEVER_ASK = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "GCM_INTERACTIVE": "never"}
_PLAIN_WORDS = {"LC_ALL": "C", "LANGUAGE": "C"}


class GitError(SnapshotError):
    """A git command failed.

    Attributes:
        words: What git said on stderr, without credentials.
        reason: The line of it that matters.
    """

    def __init__(self, command: str, words: str) -> None:
        self.words = words
        self.reason = _reason(words)
        super().__init__(f"`git {command}` failed: {self.reason}")


@dataclass(frozen=True, slots=True)
class Git:
    """git as one repository wants it called.

    Attributes:
        settings: Options before the subcommand.
        variables: The whole environment of the process.
    """

    settings: tuple[str, ...]
    variables: Mapping[str, str]

    def __call__(
        self, *arguments: str | bytes, stdin: bytes = b"", warn: Callable[[str], object] | None = None
    ) -> bytes:
        """Run a subcommand to its end and return its stdout.

        Args:
            arguments: The subcommand and what belongs to it.
            stdin: What it reads.
            warn: Told each line of its stderr if it succeeds.

        Raises:
            GitError: It ended with another status than 0.
            SnapshotError: git is not installed.
        """
        return finish(self.start(*arguments), _name(arguments), stdin, warn)

    def start(
        self, *arguments: str | bytes, stdin: int | IO[bytes] | None = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a subcommand; `finish` waits for it.

        Args:
            arguments: The subcommand and what belongs to it.
            stdin: What it reads; what `finish` is given, if not said.

        Raises:
            SnapshotError: git is not installed, or cannot be started like this.
        """
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                ["git", *self.settings, *arguments], env=self.variables, stdin=stdin, stdout=pipe, stderr=pipe
            )
        except FileNotFoundError as error:
            raise SnapshotError(
                "git is not installed; conjure needs it to record code",
                hint="install git (2.32 or newer) and try again",
            ) from error
        except OSError as error:  # such as a .conjureignore of a million lines
            raise SnapshotError(f"git could not be started: {error_text(error)}") from error


def finish(
    process: subprocess.Popen[bytes],
    name: str,
    stdin: bytes = b"",
    warn: Callable[[str], object] | None = None,
) -> bytes:
    """Feed a started git command, wait for it and return its stdout.

    Args:
        process: What `Git.start` gave.
        name: The subcommand, for messages.
        stdin: What it is fed.
        warn: Told each line of its stderr if it succeeds.

    Raises:
        GitError: It ended with another status than 0.
    """
    with process:
        try:
            output, words = process.communicate(stdin)
        except BaseException:  # a run that is stopped meanwhile
            process.kill()
            raise
    _insist_on_success(process, name, words)
    if warn is not None:
        for line in words.decode(errors="replace").splitlines():
            warn(line)
    return output


def read_start(process: subprocess.Popen[bytes], name: str, size: int) -> bytes:
    """The first bytes of a started git command's stdout; the command is ended if there are more.

    Raises:
        GitError: It ended with another status than 0.
    """
    with process:
        assert process.stdout is not None
        output = process.stdout.read(size)
        if process.stdout.read(1):
            process.kill()
            return output
        _, words = process.communicate()
    _insist_on_success(process, name, words)
    return output


def _insist_on_success(process: subprocess.Popen[bytes], name: str, words: bytes) -> None:
    if process.returncode != 0:
        raise GitError(name, redact_text(words.decode(errors="replace").strip()))


def users_git(folder: Path, *, settings: Sequence[str] = ()) -> Git:
    """Git for looking at a repository of the user's, or at a remote one.

    The user's own settings count here (what is ignored, safe.directory, proxies, credentials), but nothing is
    written: not even the index is refreshed, and no monitor program is started.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _LOCAL_VARIABLES}
    variables |= _NEVER_ASK | _PLAIN_WORDS | {"GIT_OPTIONAL_LOCKS": "0"}
    return Git(("-C", str(folder), "-c", "core.fsmonitor=false", *settings), variables)


def own_git(repository: Path, *, work_tree: Path | None = None, index: Path | None = None) -> Git:
    """Git for a repository in conjure's home; no settings from outside reach it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables |= _NEVER_ASK | _PLAIN_WORDS
    variables |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": str(repository)}
    if index is not None:
        variables["GIT_INDEX_FILE"] = str(index)
    if work_tree is None:
        return Git((), variables)
    variables["GIT_WORK_TREE"] = str(work_tree)
    return Git(("-C", str(work_tree)), variables)  # so that paths are relative to it wherever we were called


def network_git(repository: Path, *, settings: Sequence[str] = ()) -> Git:
    """Git for fetching into a repository in conjure's home.

    The user's settings count (proxies, credentials, addresses written otherwise); nothing can ask a question.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _LOCAL_VARIABLES}
    ssh = variables.get("GIT_SSH_COMMAND") or _configured_ssh(variables) or _ssh_program(variables)
    variables |= _NEVER_ASK | _PLAIN_WORDS | {"GIT_DIR": str(repository)}
    variables |= {
        "GIT_SSH_COMMAND": f"{ssh} -oBatchMode=yes",
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    }
    quiet = ("core.hooksPath=/dev/null", "gc.auto=0", "maintenance.auto=false")
    stalled = ("http.lowSpeedLimit=100", "http.lowSpeedTime=60")
    options = (("-c", setting) for setting in (*quiet, *stalled, *settings))
    return Git(tuple(chain.from_iterable(options)), variables)


def _configured_ssh(variables: Mapping[str, str]) -> str:
    ask = ["git", "config", "--get", "core.sshCommand"]
    try:
        done = subprocess.run(ask, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _ssh_program(variables: Mapping[str, str]) -> str:
    return shlex.quote(variables.get("GIT_SSH") or "ssh")


def _name(arguments: Sequence[str | bytes]) -> str:
    first = arguments[0]
    return first if isinstance(first, str) else first.decode(errors="replace")


def _reason(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    # The reason is on the first fatal or error line; what follows it is advice about git itself.
    for line, following in pairwise([*lines, ""]):
        if line.startswith(("fatal:", "error:")):
            reason = line.split(":", 1)[1].strip()
            return f"{reason} {following}".strip() if reason.endswith(":") else reason
    return lines[-1] if lines else "it printed no message"
