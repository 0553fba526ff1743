"""Names for what conjure keeps, and where it lies: ``runs/12/…``, ``uploads/NAME/…``, a link's name.

Main entries: `parse`, `resolve`. Invariant: what `resolve` returns exists, is whole, and lies inside the run
or upload that was named, links in the path included; ``..``, absolute paths and links that lead out are
refused.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.core.text import did_you_mean
from conjure.errors import ConflictError, NotFoundError, UsageError
from conjure.runs.artifacts.team_transfer import bring_files, bring_upload_list
from conjure.runs.database.record_files import read_record
from conjure.runs.schema.resource import LAST, RUNS, UPLOADS, Resource, is_upload_name
from conjure.runs.schema.run_folder import OUTPUTS, WORK, RunFolder

_FORMS = "write runs/12, uploads/NAME or a link's name"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")  # of ASCII digits: int() would take others too
_UPLOAD = re.compile(r"(?P<name>[^@]+)(?:@(?P<version>[1-9][0-9]{0,8}))?")

# The resource a link stands for, by its name; None if there is no such link.
LinkLookup = Callable[[str], str | None]


def parse(text: str, lookup_link: LinkLookup) -> Resource:
    """Take a resource path apart, following a link's name to what it stands for.

    Raises:
        UsageError: It cannot be a resource.
        NotFoundError: It begins with a name that is no link.
    """
    first, *rest = _split(text)
    if first not in (RUNS, UPLOADS):
        target = lookup_link(first)
        if target is None:
            raise _unknown_name(text, first)
        first, *inner = _split(target)
        rest = inner + rest
    if not rest:
        raise UsageError(
            f"{text!r} means all {first}; give one, as in {_EXAMPLES[first]}", fix=f"conjure ls {first}"
        )
    if first == RUNS and LAST.fullmatch(rest[0]):
        rest = [*_split(lookup_link(rest[0]) or "")[1:], *rest[1:]]
    return _run(rest, text) if first == RUNS else _upload(rest, text)


_EXAMPLES = {RUNS: "runs/12", UPLOADS: "uploads/jokes"}


def _split(text: str) -> list[str]:
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is not a resource: {_FORMS}")
    if text.startswith(("/", "./", "../", "~")):
        raise UsageError(f"{text!r} is a path on this machine, not a resource: {_FORMS}")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    for part in parts:
        # The look-alikes too: some filesystems fold them into the real thing.
        if unicodedata.normalize("NFKC", part) in (".", ".."):
            raise UsageError(f"{text!r} leaves its resource with {part!r}, which is not allowed")
    if not parts:
        raise UsageError(f"{text!r} is not a resource: {_FORMS}")
    return parts


def _unknown_name(text: str, first: str) -> NotFoundError:
    sentence = f"there is no resource {text!r}: {first!r} is neither runs, uploads nor a link"
    if os.path.exists(text):  # noqa: PTH110 - false, too, for a name no filesystem can hold
        upload = shell_words("conjure", "upload", f"./{text}")
        return NotFoundError(sentence, hint=f"to make the local one an upload: {upload}", fix="conjure ls")
    return NotFoundError(sentence, fix="conjure ls")


def _run(parts: list[str], text: str) -> Resource:
    number, *inner = parts
    if not _NUMBER.fullmatch(number):
        raise UsageError(f"{text!r} is not a run: give its number in digits, as in runs/12")
    return Resource(RUNS, number, None, tuple(inner))


def _upload(parts: list[str], text: str) -> Resource:
    name, *inner = parts
    match = _UPLOAD.fullmatch(name)
    if match is None:
        raise UsageError(
            f"{text!r} is not an upload: write uploads/NAME, or uploads/NAME@2 for its second version"
        )
    version = int(match["version"]) if match["version"] else None
    return Resource(UPLOADS, check_name("upload", match["name"]), version, tuple(inner))


def check_name(what: str, name: str) -> str:
    """A name somebody chose for an upload or a link, in its normal form.

    Raises:
        UsageError: It could be mistaken for something else.
    """
    normal = unicodedata.normalize("NFC", name)
    if not is_upload_name(normal):
        raise UsageError(
            f"{name!r} cannot be the name of {'an' if what[0] in 'aeiou' else 'a'} {what}: use letters,"
            " digits, spaces and _ . + - (100 at most, beginning with a letter or digit)"
        )
    return normal


def check_link_name(name: str) -> str:
    """A name somebody chose for a link, in its normal form.

    Raises:
        UsageError: It could be mistaken for something else.
    """
    normal = check_name("link", name)
    if LAST.fullmatch(unicodedata.normalize("NFKC", normal).casefold()):
        raise UsageError(f"{name!r} cannot be the name of a link: it means the newest run")
    if unicodedata.normalize("NFKC", normal).casefold() in (RUNS, UPLOADS, "datasets"):
        raise UsageError(f"{name!r} cannot be the name of a link: every path to {normal} begins with it")
    return normal


def resolve(home: Home, resource: str, lookup_link: LinkLookup) -> Path:
    """Where a resource lies.

    Args:
        resource: ``runs/N[/path]``, ``uploads/NAME[/path]``, or a link's name with or without a path.
        lookup_link: Gives what a link stands for.

    Raises:
        UsageError: It cannot be a resource, or leads out of its run or upload.
        NotFoundError: There is no such thing.
        ConflictError: It is a folder of which a run has saved only some files.
    """
    parsed = parse(resource, lookup_link)
    path = find_saved_first(home, parsed)
    if parsed.number is not None and path.is_dir() and _is_in_two_places(home, parsed):
        raise _saved_in_part(home, parsed, parsed.number)
    return path


def find_saved_first(home: Home, resource: Resource) -> Path:
    """Where a resource lies; while a run's outputs are being saved, some of a folder may be in another place.

    Raises:
        UsageError: It leads out of its run or upload.
        NotFoundError: There is no such thing.
    """
    bring_files(home, resource)
    roots = list(find_roots(home, resource))
    if not roots:
        raise _no_files(home, resource)
    for root in roots:
        path = root.joinpath(*resource.parts)
        if os.path.lexists(path):  # false, too, for a name no filesystem can hold
            return _inside(path, root, resource)
    raise _no_such_file(roots[0], resource)


def _is_in_two_places(home: Home, resource: Resource) -> bool:
    """Whether files of a folder are still being saved, or were when their run was cut off."""
    return sum(root.joinpath(*resource.parts).is_dir() for root in find_roots(home, resource)) > 1


def pin(home: Home, resource: str, lookup_link: LinkLookup) -> str:
    """The same resource in a form that goes on meaning it: links followed, uploads with their version.

    Raises:
        UsageError: It cannot be a resource.
        NotFoundError: There is no such upload or link.
    """
    parsed = parse(resource, lookup_link)
    if parsed.kind == UPLOADS and parsed.version is None:
        bring_upload_list(home, parsed.name)
        newest = latest_version(home, parsed.name)
        if newest is None:
            raise _no_files(home, parsed)
        parsed = Resource(UPLOADS, parsed.name, newest, parsed.parts)
    return str(parsed)


def find_roots(home: Home, resource: Resource) -> Iterator[Path]:
    """The folders (or the file) that hold a run's or upload's files; none if it has none.

    A run has two while its outputs are being saved, or where that was cut off.
    """
    if resource.kind == UPLOADS:
        version = resource.version if resource.version is not None else latest_version(home, resource.name)
        content = None if version is None else upload_content(home, resource.name, version)
        if content is not None:
            yield content
        return
    folder = home.run_folder(int(resource.name))
    saved = RunFolder(folder).manifest.exists()
    for place in (OUTPUTS,) if saved else (OUTPUTS, WORK):
        if (folder / place).is_dir() and not (folder / place).is_symlink():
            yield folder / place


def latest_version(home: Home, name: str) -> int | None:
    """The newest version of an upload, or None if there is none of that name."""
    return max(versions(home, name), default=None)


def versions(home: Home, name: str) -> list[int]:
    """The versions of an upload that are there, oldest first."""
    folder = home.uploads / name
    return sorted(int(name) for name in _names(folder) if _NUMBER.fullmatch(name))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def upload_content(home: Home, name: str, version: int) -> Path | None:
    """What was uploaded: a folder, or a file if one was uploaded under its own name."""
    version_folder = home.uploads / name / str(version)
    folder, single = version_folder / "folder", version_folder / "file"
    if single.is_dir():
        return next((path for path in single.iterdir() if is_own_name(path.name, name)), single)
    return folder if folder.is_dir() else None


def is_own_name(file: str, upload: str) -> bool:
    """Whether a file gave an upload its name; macOS decomposes letters (NFD) in the names of files."""
    return unicodedata.normalize("NFC", file) == upload


def root_of(home: Home, path: Path) -> Path | None:
    """The run's or upload's folder that a path in conjure's home lies in, or None."""
    for kind, depth in ((home.runs, 2), (home.fetched, 2), (home.uploads, 3)):
        if path.is_relative_to(kind):
            return kind.joinpath(*path.relative_to(kind).parts[:depth])
    return None


def _inside(path: Path, root: Path, resource: Resource) -> Path:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        raise NotFoundError(f"{resource} is a broken link") from error
    if not real.is_relative_to(root.resolve()):
        raise UsageError(f"{resource} is a link that points outside {resource.owner}, which is not allowed")
    return path


def _saved_in_part(home: Home, resource: Resource, number: int) -> ConflictError:
    record = read_record(home.run_folder(number))
    if record is not None and record.status.is_final:
        why, fix = f"run {number} ended before all of its outputs were saved", f"conjure recover {number}"
    else:
        why, fix = f"run {number} is still saving its outputs", f"conjure wait {number}"
    return ConflictError(f"{resource} is not complete: {why}", fix=fix)


def _no_files(home: Home, resource: Resource) -> NotFoundError:
    if resource.kind == UPLOADS:
        have = versions(home, resource.name)
        if have:
            return NotFoundError(
                f"{resource.owner} does not exist; {resource.name} has version {', '.join(map(str, have))}"
            )
        return NotFoundError(
            f"{resource.owner} does not exist{_near(resource.name, _names(home.uploads))}",
            fix="conjure ls uploads",
        )
    if home.run_folder(int(resource.name)).is_dir():
        return NotFoundError(
            f"{resource.owner} has no files yet, or they were removed",
            fix=f"conjure info {resource.name}",
        )
    numbers = [int(name) for name in _names(home.runs) if _NUMBER.fullmatch(name)]
    latest = f"the latest run is {max(numbers)}" if numbers else "there are no runs yet"
    return NotFoundError(f"{resource.owner} does not exist; {latest}", fix="conjure ps")


def _no_such_file(root: Path, resource: Resource) -> NotFoundError:
    folder, missing = root, resource.parts[0]
    for part in resource.parts:
        missing = part
        if not os.path.isdir(folder / part) or (folder / part).is_symlink():  # noqa: PTH112 - likewise
            break
        folder /= part
    return NotFoundError(
        f"{resource} does not exist{_near(missing, _names(folder))}",
        fix=shell_words("conjure", "ls", resource.owner),
    )


def _near(name: str, known: list[str]) -> str:
    suggestion = did_you_mean(name, known)
    return f"; {suggestion}" if suggestion else ""
