"""Other people's repositories: a mirror of each in conjure's home, brought up to date when asked for.

Main entry: `fetch`. Invariant: a login in an address is handed to git in variables of its process, for the
host in that address alone; it is never stored, printed or on a command line.
"""

import fcntl
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from conjure.core.files import expand_user, locked, sha256_bytes
from conjure.core.home import Home
from conjure.core.secrets import redact_text
from conjure.core.trees import remove_tree
from conjure.errors import ConjureError, SnapshotError, UsageError, option
from conjure.runs.code.copy_objects import SubmoduleFinder
from conjure.runs.code.git import Git, GitError, network_git, own_git

_URL = re.compile(
    # A password, and a name that is a mail address, may hold an @: the last one ends the login.
    r"(?P<scheme>https?|ssh|git|file)://(?:(?P<user>[^/:]*)(?::(?P<password>[^/]*))?@)?(?P<rest>.*)"
)
_WITHOUT_LOGIN = re.compile(r"(?:\[[^/\]]*\]|[^/:]*)(?::[0-9]*)?(?:/.*)?")
_SCP = re.compile(r"[\w.@-]+:(?!//).+")
_COMMIT = re.compile(r"[0-9a-f]{4,40}")
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
_BRANCH = "refs/heads/"
_ASKED = "refs/conjure/asked"
_ALL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_ASKS_FOR_LOGIN = re.compile(r"could not read Username for '(?P<host>\w+://[^'/]+)")
# Answers git's question for a login from two variables that only the git process has.
_HELPER = '!f() { echo "username=$CONJURE_GIT_USER"; echo "password=$CONJURE_GIT_PASSWORD"; }; f'

# What git says, and what it means.
_REASONS = (
    (
        (
            "could not read Username",
            "Authentication failed",
            "Permission denied (",
            "Access denied",
            "error: 403",
        ),
        "it requires a login",
        "store one with a git credential helper, or use an SSH address with a key",
    ),
    (
        ("not found", "does not exist", "does not appear to be a git repository", "not a git repository"),
        "there is no repository there, or it is private",
        "check the address with `git ls-remote ADDRESS`",
    ),
    (("Could not resolve host",), "the host cannot be found", "check the address and the network"),
    (("Host key verification failed",), "the host key is unknown", "connect once with ssh"),
    (
        ("dubious ownership",),
        "it belongs to another user, and git refuses to read it",
        "git config --global --add safe.directory PATH",
    ),
)


class Address(NamedTuple):
    """Where a repository is, and who asks.

    Attributes:
        url: The address without secrets.
        user: Name for a login over HTTP, or None.
        password: Password or token for it.
    """

    url: str
    user: str | None = None
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address a person wrote: a URL, ``user@host:path``, or a local path.

        Raises:
            UsageError: It is none of these.
        """
        match = _URL.fullmatch(text)
        if match is None:
            if "::" not in text and _SCP.fullmatch(text) and not _exists(text):
                return cls(text)
            local = expand_user(text).absolute()
            if not text or "::" in text or "://" in text or not _exists(local):
                raise UsageError(
                    f"{redact_text(text)!r} is not the address of a repository: write https://…, ssh://…,"
                    " file://… or a path"
                )
            return cls(str(local))
        scheme, user, rest = match["scheme"], match["user"], match["rest"]
        if scheme != "file" and not _WITHOUT_LOGIN.fullmatch(rest):
            raise UsageError(
                f"the {scheme} address of the repository cannot be split into login, host, port and path",
                hint="write / in a password as %2F",
            )
        if scheme in ("http", "https"):
            return cls(f"{scheme}://{rest}", user and unquote(user), unquote(match["password"] or ""))
        return cls(f"{scheme}://{f'{user}@' if user else ''}{rest}")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self.url.startswith(("/", "file://"))

    @property
    def name(self) -> str:
        """The repository's name."""
        return re.split("[/:]", self.url.rstrip("/"))[-1].removesuffix(".git") or "repository"

    def join(self, relative: str) -> "Address":
        """The address a submodule of this repository writes as ``../other.git``."""
        scheme, separator, path = (
            self.url.rpartition(":") if "://" not in self.url else self.url.partition("://")
        )
        start, slash, below = path.partition("/") if separator == "://" else ("", "", path)
        return self._replace(
            url=f"{scheme}{separator}{start}{slash}{posixpath.normpath(f'{below}/{relative}')}"
        )

    def git(self, repository: Path) -> Git:
        """Git that may ask this address."""
        git = network_git(repository)
        if self.user is None:
            return git
        settings = ["-c", "credential.helper="]
        for host in self.login_hosts:
            settings += ["-c", f"credential.{host}.helper={_HELPER}"]
        login = {"CONJURE_GIT_USER": self.user, "CONJURE_GIT_PASSWORD": self.password}
        return Git((*git.settings, *settings), {**git.variables, **login})

    @property
    def login_hosts(self) -> tuple[str, ...]:
        """Where the login may be sent: git follows a redirect, and asks for a login there too."""
        scheme, _, rest = self.url.partition("://")
        host = rest.partition("/")[0]
        return tuple(dict.fromkeys((f"{scheme}://{host}", f"https://{host}")))


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - false, too, for a name no filesystem can hold


class RemoteCommit(NamedTuple):
    """A commit that has been fetched.

    Attributes:
        address: Where it came from.
        mirror: git for the mirror it is in.
        commit: Its full name.
        branch: The branch it was asked for by, or None.
    """

    address: Address
    mirror: Git
    commit: str
    branch: str | None


def fetch(home: Home, address: Address, reference: str | None = None) -> RemoteCommit:
    """Have a commit of a remote repository in its mirror.

    Args:
        home: Where mirrors are kept.
        address: The repository.
        reference: Branch, tag or commit; the default branch if None.

    Raises:
        SnapshotError: It cannot be reached.
        UsageError: It has no such branch, tag or commit.
    """
    with _locked_mirror(home, address) as repository:
        git, mirror = address.git(repository), own_git(repository)
        with _explained(address):
            remote = _References.read(git("ls-remote", "--symref", "--", address.url))
            name, commit = remote.find(reference)
            wanted = commit or (reference if _FULL_COMMIT.fullmatch(reference or "") else None)
            if wanted is None or not _has(mirror, wanted):
                _fetch(git, address, *_ALL, *_beside_branches_and_tags(name))
        if commit is not None and not _has(mirror, commit):
            raise SnapshotError(
                f"{address.url} cannot be fetched: it did not send {name} at {commit[:12]}",
                hint="try again; it may have changed meanwhile",
            )
        commit = commit or _find_commit(git, mirror, address, reference, remote)
    branch = name.removeprefix(_BRANCH) if name and name.startswith(_BRANCH) else None
    return RemoteCommit(address, mirror, commit, branch)


def _beside_branches_and_tags(name: str | None) -> tuple[str, ...]:
    """What to fetch besides, for a reference such as ``refs/pull/1/head``."""
    if name is None or name.startswith((_BRANCH, "refs/tags/")):
        return ()
    return (f"+{name}:{_ASKED}",)


def _fetch(git: Git, address: Address, *references: str) -> None:
    plain = ("--quiet", "--no-tags", "--force", "--no-write-fetch-head", "--no-recurse-submodules")
    # Of a shallow clone a mirror is as shallow, and grows with it.
    is_shallow = git("rev-parse", "--is-shallow-repository").strip() == b"true"
    shallow = ("--update-shallow", *(["--unshallow"] if is_shallow else []))
    git("fetch", *plain, *shallow, "--prune", "--", address.url, *references)


def _has(mirror: Git, commit: str) -> bool:
    try:
        mirror("cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def _find_commit(
    git: Git, mirror: Git, address: Address, reference: str | None, remote: "_References"
) -> str:
    """The commit whose name begins with `reference`."""
    if reference is not None and _COMMIT.fullmatch(reference):
        if _FULL_COMMIT.fullmatch(reference) and not _has(mirror, reference):
            with suppress(GitError):  # a server may give out what no branch leads to
                _fetch(git, address, f"+{reference}:{_ASKED}")
        with suppress(GitError):
            return mirror("rev-parse", "--verify", f"{reference}^{{commit}}").decode().strip()
    raise _unknown_reference(address, reference, remote)


def _unknown_reference(address: Address, reference: str | None, remote: "_References") -> UsageError:
    branches = remote.branches
    if reference is None:
        have = f"; it has {', '.join(branches[:5])}" if branches else ""
        return UsageError(
            f"{address.url} has no default branch{have}", hint=f"name one with {option('git_ref')}"
        )
    known = f"its branches are {', '.join(branches[:5])}" if branches else "it is empty"
    return UsageError(f"{address.url} has no branch, tag or commit {reference!r}; {known}")


class _References(NamedTuple):
    """What a remote repository offers, by full name; HEAD's branch apart."""

    commits: dict[str, str]
    head: str | None

    @classmethod
    def read(cls, listing: bytes) -> "_References":
        commits, head = {}, None
        for line in os.fsdecode(listing).splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: ") and name == "HEAD":
                head = value.removeprefix("ref: ")
            elif not value.startswith("ref: "):
                commits[name] = value
        return cls(commits, head)

    @property
    def branches(self) -> list[str]:
        return [name.removeprefix(_BRANCH) for name in self.commits if name.startswith(_BRANCH)]

    def find(self, reference: str | None) -> tuple[str | None, str | None]:
        """Full name and commit of what is meant; (None, None) if nothing here is called so."""
        if reference in (None, "HEAD"):
            commit = self.commits.get("HEAD")
            return (None, None) if commit is None else (self.head or "HEAD", commit)
        for name in (f"{_BRANCH}{reference}", f"refs/tags/{reference}", reference):
            if name in self.commits and name != "HEAD":
                return name, self.commits.get(f"{name}^{{}}", self.commits[name])
        return None, None


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Say what a failure of git to reach the address means."""
    try:
        yield
    except GitError as error:
        other = _ASKS_FOR_LOGIN.search(error.words)
        if address.user is not None and other and other["host"] not in address.login_hosts:
            raise SnapshotError(
                f"{address.url} cannot be fetched: it leads to {other['host']},"
                " to which its login is not sent",
                hint="write the address to which it leads, with the login",
            ) from error
        for signs, meaning, remedy in _REASONS:
            if any(sign in error.words for sign in signs):
                raise SnapshotError(f"{address.url} cannot be fetched: {meaning}", hint=remedy) from error
        raise SnapshotError(f"{address.url} cannot be fetched: {error}") from error


@contextmanager
def _locked_mirror(home: Home, address: Address) -> Iterator[Path]:
    home.create()
    home.mirrors.mkdir(exist_ok=True)
    repository = home.mirrors / f"{sha256_bytes(os.fsencode(address.url))[:32]}.git"
    with locked(repository.with_suffix(".lock")):
        if not repository.exists():
            with tempfile.TemporaryDirectory(dir=home.mirrors, ignore_cleanup_errors=True) as temporary:
                own_git(Path(temporary) / "new.git")("init", "--quiet", "--bare", "--template=")
                (Path(temporary) / "new.git").rename(repository)
        yield repository


def prune(home: Home) -> list[Path]:
    """Remove all mirrors but those in use at this moment; they can be fetched again.

    Returns:
        The mirrors that were removed.
    """
    removed = []
    for repository in sorted(home.mirrors.glob("*.git")):
        with repository.with_suffix(".lock").open("a") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(repository)
            removed.append(repository)
    return removed


def submodule_finder(home: Home, top: RemoteCommit) -> SubmoduleFinder:
    """Finds the submodules of a fetched commit where its ``.gitmodules`` says they are."""
    found = {b"": top}

    def find(name: bytes, commit: str) -> Git | None:
        container = max((prefix for prefix in found if name.startswith(prefix)), key=len)
        holder = found[container]
        address = _submodule_address(holder, name.removeprefix(container))
        # Code from elsewhere gets no say over what is read from this machine.
        if address is None or (address.is_local and not holder.address.is_local):
            return None
        try:
            inner = fetch(home, address, commit)
        except ConjureError:
            return None
        found[name + b"/"] = inner
        return inner.mirror

    return find


def _submodule_address(holder: RemoteCommit, name: bytes) -> Address | None:
    try:
        settings = holder.mirror("config", "--blob", f"{holder.commit}:.gitmodules", "--list", "-z")
    except GitError:
        return None
    values = dict(entry.split("\n", 1) for entry in os.fsdecode(settings).split("\0") if "\n" in entry)
    for key, value in values.items():
        if key.endswith(".path") and value == os.fsdecode(name):
            url = values.get(f"{key.removesuffix('.path')}.url", "")
            with suppress(UsageError):
                return holder.address.join(url) if url.startswith(("./", "../")) else Address.parse(url)
    return None
