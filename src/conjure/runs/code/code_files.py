"""Which files of a folder are its code: what git tracks there, and what is new and not ignored.

Main entries: `find_repository`, `list_code_files`. Invariant: nothing is written; names are bytes, relative
to the code's root, and only regular files and symbolic links are listed.
"""

import os
import posixpath
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from conjure.core.files import real_path
from conjure.core.globs import DEFAULT_EXCLUSIONS, GlobSet
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.core.units import format_size
from conjure.errors import SnapshotError
from conjure.runs.code.git import GITLINK, Git, GitError, finish, own_git, users_git

IGNORE_FILE = ".conjureignore"

_LIST_ALL = ("--cached", "--others", "--exclude-standard")
_SPECIAL, _ESCAPED = re.compile(r"[\\*?\[]"), r"\\\g<0>"
_STATUS = (
    *("status", "--porcelain=v2", "--branch", "-z"),
    *("--untracked-files=no", "--no-renames", "--no-ahead-behind"),
)
_NO_WORK_TREE = (
    "not a git repository (or any",
    "must be run in a work tree",  # in a bare repository, or the inside of a .git
    "cannot use bare repository",
)
_NO_REPOSITORY = re.compile("not (?:recognized as )?a git repository")
_FOREIGN = re.compile("dubious ownership in repository at '(.*)'")
_CLOSED = re.compile("warning: could not open directory '(.*?)/?': (.*)")
_LFS_HEADER = b"version https://git-lfs.github.com/spec/v1\n"
_LFS_POINTER_SIZES = range(100, 1024)  # the specification's limit; real ones have about 130 bytes


class Repository(NamedTuple):
    """A git repository of the user's and what is checked out in it.

    Attributes:
        root: Its top folder.
        commit: The commit HEAD names, or None before the first one.
        branch: The branch checked out, or None.
        changed: Whether tracked files differ from the commit.
    """

    root: Path
    commit: str | None
    branch: str | None
    changed: bool


@dataclass(slots=True)
class CodeFiles:
    """The files that make up the code.

    Attributes:
        sizes: Bytes of each file, by its name.
        untracked: Whether any of them is not tracked by git.
        warnings: What cannot be taken faithfully.
    """

    sizes: dict[bytes, int] = field(default_factory=dict)
    untracked: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def find_repository(folder: Path, home: Home) -> Repository | None:
    """The repository whose work tree `folder` lies in, or None.

    Raises:
        SnapshotError: git refuses to read the repository.
    """
    # A folder inside conjure's home belongs to a run, never to a repository the home happens to lie in.
    git = _searching_below(home.root.resolve(), users_git(folder))
    status = git.start(*_STATUS)
    prefix = git.start("rev-parse", "--show-prefix")
    try:
        below = Path(os.fsdecode(finish(prefix, "rev-parse").removesuffix(b"\n")))
    except GitError as error:
        status.communicate()
        if any(words in error.words for words in _NO_WORK_TREE):
            return None
        raise _unreadable(folder, error) from error
    resolved = real_path(folder)
    root = resolved.parents[len(below.parts) - 1] if below.parts else resolved
    try:
        return _repository(root, finish(status, "status"))
    except GitError as error:
        if any(words in error.words for words in _NO_WORK_TREE):
            return None
        if not _NO_REPOSITORY.search(error.words):
            raise _unreadable(folder, error) from error
    # A submodule's .git leads nowhere: what the submodule holds is found when its files are listed.
    return _repository(root, git(*_STATUS, "--ignore-submodules=dirty"))


def _searching_below(folder: Path, git: Git) -> Git:
    """Git that looks for a repository in no folder that holds this one, nor in this one."""
    ceilings = [str(folder), os.environ.get("GIT_CEILING_DIRECTORIES", "")]
    return Git(git.settings, {**git.variables, "GIT_CEILING_DIRECTORIES": ":".join(filter(None, ceilings))})


def _unreadable(folder: Path, error: GitError) -> SnapshotError:
    foreign = _FOREIGN.search(error.words)
    if foreign is not None:
        return SnapshotError(
            f"the git repository {foreign[1]} belongs to another user, and git refuses to read it",
            fix=shell_words("git", "config", "--global", "--add", "safe.directory", foreign[1]),
        )
    return SnapshotError(
        f"git cannot list the files of {folder}: {error.reason}",
        fix=shell_words("git", "-C", str(folder), "status"),
    )


def _repository(root: Path, status: bytes) -> Repository:
    headers, changed = {}, False
    for line in filter(None, status.split(b"\0")):
        if line.startswith(b"# "):
            _, name, value = line.split(b" ", 2)
            headers[name] = os.fsdecode(value)
        else:
            changed = True
    commit, branch = headers.get(b"branch.oid"), headers.get(b"branch.head")
    return Repository(
        root,
        None if commit == "(initial)" else commit,
        None if branch == "(detached)" else branch,
        changed,
    )


def list_code_files(root: Path, *, in_repository: bool, home: Home) -> CodeFiles:
    """The code below `root`.

    In a repository: tracked files as they are in the work tree, and untracked ones that are not ignored;
    submodules and other repositories inside are followed the same way. Outside: every file that is not
    ignored. ``.conjureignore`` at the root has gitignore's grammar and the last word; unlike ``.gitignore``
    it also leaves out files that git tracks.

    Raises:
        SnapshotError: git cannot list the files.
    """
    files = CodeFiles()
    rules = _IgnoreRules(list(DEFAULT_EXCLUSIONS), _read_rules(root / IGNORE_FILE))
    inside = home.root.resolve()
    if inside != root and inside.is_relative_to(root):
        # conjure's own home is never part of the code
        rules.defaults.append(f"/{_SPECIAL.sub(_ESCAPED, str(inside.relative_to(root)))}/")
    listing = _Listing(home, files)
    names = listing.repository(root, b"", rules) if in_repository else listing.plain_folder(root, b"", rules)
    _measure(root, names, files)
    _warn_of_lfs_pointers(root, files)
    return files


class _IgnoreRules(NamedTuple):
    """Lines of gitignore's grammar: conjure's own, which tracked files are free of, and the user's."""

    defaults: list[str]
    users: list[str]

    def options(self) -> list[str]:
        return [f"--exclude={rule}" for rule in self.defaults + self.users]

    def below(self, folder: str) -> "_IgnoreRules":
        return _IgnoreRules(_rules_below(self.defaults, folder), _rules_below(self.users, folder))


def _read_rules(path: Path) -> list[str]:
    try:
        return parse_rules(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return []
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error_text(error)}") from error


def parse_rules(content: bytes, path: Path) -> list[str]:
    """The rules in a file's content, as git reads them.

    Raises:
        SnapshotError: It is no text.
    """
    text = os.fsdecode(content.removeprefix(BOM_UTF8))
    if "\0" in text:
        raise SnapshotError(f"{path} is not UTF-8 text", hint="save it as UTF-8")
    lines = (_without_trailing_spaces(line.rstrip("\r")) for line in text.split("\n"))
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _without_trailing_spaces(line: str) -> str:
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    return f"{kept} " if kept != line and backslashes % 2 else kept  # an escaped space stays


def _rules_below(rules: Sequence[str], folder: str) -> list[str]:
    """`rules` as they read from inside `folder`: those anchored elsewhere fall away."""
    below = []
    for rule in rules:
        negation, pattern = ("!", rule[1:]) if rule.startswith("!") else ("", rule)
        if "/" not in pattern.rstrip("/"):
            below.append(rule)
            continue
        rests = [pattern.removeprefix("/").split("/")]
        for part in folder.split("/"):
            rests = [rest for segments in rests for rest in _after(segments, part)]
        below += [f"{negation}/{'/'.join(rest)}" for rest in rests if any(rest)]
    return below


def _after(segments: Sequence[str], part: str) -> Iterator[Sequence[str]]:
    """What can be left of a pattern's segments when they have matched one part of a path."""
    if segments[:1] == ["**"]:
        yield segments  # it matches any number of parts
        yield from _after(segments[1:], part)
    elif any(segments) and GlobSet([segments[0]]).matches(part):
        yield segments[1:]


@dataclass(frozen=True, slots=True)
class _Listing:
    """Lists names, each with a prefix before it, and adds to `files` what there is to say about them."""

    home: Home
    files: CodeFiles

    def repository(self, root: Path, prefix: bytes, rules: _IgnoreRules) -> list[bytes]:
        git = _searching_below(root.parent, users_git(root))
        unwanted = set()
        if rules.users:
            ignored = ("ls-files", "-z", "--cached", "--ignored")
            unwanted = set(git(*ignored, *_IgnoreRules([], rules.users).options()).split(b"\0"))
        listing = git(
            *("ls-files", "-z", "-t", "--stage", *_LIST_ALL, *rules.options()), warn=self._warning(prefix)
        )
        found = []
        for mode, name in _entries(listing):
            if name in unwanted:
                continue
            self.files.untracked |= mode is None
            if mode == GITLINK or name.endswith(b"/"):
                found += self._nested(root, name.rstrip(b"/"), prefix, rules)
            else:
                found.append(prefix + name)
        return found

    def plain_folder(self, root: Path, prefix: bytes, rules: _IgnoreRules) -> list[bytes]:
        store = self.home.code_repository
        git = own_git(store, work_tree=root, index=store / "no-index")
        found = []
        listing = git("ls-files", "-z", *_LIST_ALL, *rules.options(), warn=self._warning(prefix))
        for name in filter(None, listing.split(b"\0")):
            if name.endswith(b"/"):  # a repository in the folder
                found += self._nested(root, name.rstrip(b"/"), prefix, rules)
            else:
                found.append(prefix + name)
        return found

    def _warning(self, prefix: bytes) -> Callable[[str], None]:
        """What tells the user of folders that git could not look into, from a line of git's."""

        def warn(line: str) -> None:
            closed = _CLOSED.fullmatch(line)
            if closed is not None:
                folder = os.fsdecode(prefix) + closed[1]
                self.files.warnings.append(f"{folder} cannot be read and is left out: {closed[2]}")

        return warn

    def _nested(self, root: Path, name: bytes, prefix: bytes, rules: _IgnoreRules) -> list[bytes]:
        shown, folder = os.fsdecode(prefix + name), root / os.fsdecode(name)
        inside = (folder, prefix + name + b"/", rules.below(os.fsdecode(name)))
        if os.path.lexists(folder / ".git"):
            try:
                return self.repository(*inside)
            except GitError as error:
                if not _NO_REPOSITORY.search(error.words):
                    raise _unreadable(folder, error) from error
            why = f"{shown}/.git leads to no git repository"
        elif _is_empty(folder):
            self.files.warnings.append(
                f"submodule {shown} is not checked out and stays empty:"
                " `git submodule update --init` fetches it"
            )
            return []
        else:
            why = f"submodule {shown} has no .git"
        self.files.warnings.append(f"{why}; {shown} is copied as a plain folder")
        self.files.untracked = True
        return self.plain_folder(*inside)


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        raise _cannot_be_read(folder, error) from error


def _entries(listing: bytes) -> Iterator[tuple[bytes | None, bytes]]:
    """Mode (None when untracked) and name of each entry, once."""
    seen = set()
    for line in filter(None, listing.split(b"\0")):
        if line.startswith(b"? "):
            mode, name = None, line[2:]
        else:
            facts, name = line.split(b"\t", 1)
            mode = facts.split(b" ")[1]
        if name not in seen:  # a file in conflict has up to three entries
            seen.add(name)
            yield mode, name


def _measure(root: Path, names: Iterable[bytes], files: CodeFiles) -> None:
    """Keep the names that are regular files or links, with their sizes."""
    base = os.fsencode(root)
    real_folders = {b"": True}
    for name in names:
        if not _is_real_folder(base, posixpath.dirname(name), real_folders):
            continue
        facts = _facts(posixpath.join(base, name))
        if facts is not None and stat.S_IFMT(facts.st_mode) in (stat.S_IFREG, stat.S_IFLNK):
            files.sizes[name] = facts.st_size


def _is_real_folder(base: bytes, folder: bytes, known: dict[bytes, bool]) -> bool:
    """Whether no component of `folder` is a link: a file seen through one is not a file of this tree."""
    if folder not in known:
        above = _is_real_folder(base, posixpath.dirname(folder), known)
        facts = _facts(posixpath.join(base, folder)) if above else None
        known[folder] = facts is not None and stat.S_ISDIR(facts.st_mode)
    return known[folder]


def _facts(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None  # tracked, but deleted here
    except OSError as error:
        raise _cannot_be_read(os.fsdecode(path), error) from error


def _cannot_be_read(path: str | Path, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"{path} cannot be read: {error_text(error)}", hint=f"make it readable, or add it to {IGNORE_FILE}"
    )


def _warn_of_lfs_pointers(root: Path, files: CodeFiles) -> None:
    attributes = [name for name in files.sizes if posixpath.basename(name) == b".gitattributes"]
    if not any(b"filter=lfs" in _read(root, name) for name in attributes):
        return
    small = [name for name, size in files.sizes.items() if size in _LFS_POINTER_SIZES]
    pointers = [name for name in small if is_lfs_pointer(_read(root, name))]
    if pointers:
        files.warnings.append(lfs_warning(pointers))


def _read(root: Path, name: bytes) -> bytes:
    """A file's content; none of a link's, and none where it cannot be read: whoever copies it says that."""
    path = root / os.fsdecode(name)
    try:
        return b"" if path.is_symlink() else path.read_bytes()
    except OSError:
        return b""


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file's content stands for a large file that Git LFS has not fetched."""
    return content.startswith(_LFS_HEADER)


def may_be_lfs_pointer(size_bytes: int) -> bool:
    """Whether a file of this size is worth looking into."""
    return size_bytes in _LFS_POINTER_SIZES


def lfs_warning(names: Sequence[bytes]) -> str:
    """What to tell the user about files that are only pointers."""
    example = os.fsdecode(names[0])
    count = "1 file is a Git LFS pointer" if len(names) == 1 else f"{len(names)} files are Git LFS pointers"
    return f"{count}, not the content ({example}): `git lfs pull` fetches it"


def largest_parts(sizes: Mapping[bytes, int], count: int = 3) -> str:
    """The top-level entries that weigh most, as words: ``data/ 3.1 GB, model.bin 400 MB``."""
    parts: dict[bytes, int] = {}
    for name, size in sizes.items():
        top, slash, _ = name.partition(b"/")
        parts[top + slash] = parts.get(top + slash, 0) + size
    heaviest = sorted(parts.items(), key=lambda part: part[1], reverse=True)[:count]
    return ", ".join(f"{os.fsdecode(name)} {format_size(size)}" for name, size in heaviest)
