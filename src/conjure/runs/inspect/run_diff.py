"""What differs between runs: what they were asked, what they ran with, and what came out.

Main entries: `compare` for two runs, `compare_many` for several. Invariant: what is equal in all runs is not
mentioned, and neither is what differs between any two runs (numbers, times, processes).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conjure.core.home import Home
from conjure.core.text import valid_utf8
from conjure.runs.artifacts.team_transfer import bring_code_to_compare
from conjure.runs.code.git import EMPTY_TREE, GitError, own_git
from conjure.runs.schema.record import CodeFacts, MountFacts, RunRecord
from conjure.runs.telemetry.metrics import Summary

_KINDS = {"A": "added", "D": "deleted", "R": "renamed"}
# Of a spec: what is compared by itself below, or says nothing of what was done.
_COMPARED_ELSEWHERE = frozenset(
    [
        "command",
        "mounts",
        "params",
        "variables",
        "environment",
        "code",
        "labels",
        "project",
        "folder",
        "withheld",
    ]
)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; None where a run does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file of the code that differs.

    Attributes:
        path: Relative to the code's root.
        before: Its earlier name, where it was renamed; else the same.
        added: Lines added, None for a binary file.
        deleted: Lines deleted, None for a binary file.
        kind: ``added``, ``deleted``, ``modified`` or ``renamed``.
    """

    path: str
    before: str
    added: int | None
    deleted: int | None
    kind: str


@dataclass(frozen=True, slots=True)
class CodeDifference:
    """How the code differs.

    Attributes:
        facts: Commit, branch, whether there was more than the commit, folder: what differs of them.
        files: Files that differ.
        unknown: Why the files cannot be compared, or None.
        only_in: The run that all the files are of, where the other started without code; else None.
    """

    facts: tuple[Change, ...] = ()
    files: tuple[FileChange, ...] = ()
    unknown: str | None = None
    only_in: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known to differ."""
        return not (self.facts or self.files or self.unknown)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two runs, in sections; an empty section holds no difference."""

    before: int
    after: int
    code: CodeDifference
    sections: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the runs do not differ at all."""
        return self.code.is_empty and not any(self.sections.values())

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain JSON values."""
        sections = {name: [asdict(change) for change in changes] for name, changes in self.sections.items()}
        return {"before": self.before, "after": self.after, "code": asdict(self.code), **sections}


def compare(
    home: Home,
    before: RunRecord,
    after: RunRecord,
    metrics_before: Mapping[str, Summary],
    metrics_after: Mapping[str, Summary],
) -> Difference:
    """What differs between two runs."""
    sections = {
        name: _changes(tell(before, metrics_before), tell(after, metrics_after))
        for name, tell in _SECTIONS.items()
    }
    return Difference(before.number, after.number, _compare_code(home, before, after), sections)


def compare_many(
    records: Sequence[RunRecord], summaries: Sequence[Mapping[str, Summary]]
) -> dict[str, list[tuple[str, tuple[Any, ...]]]]:
    """What differs among runs, by section: names, each with its value in each run, None where it has none."""
    found = {}
    for section, tell in _SECTIONS.items():
        told = [tell(record, summary) for record, summary in zip(records, summaries, strict=True)]
        names = sorted({name for each in told for name in each})
        rows = [(name, tuple(each.get(name) for each in told)) for name in names]
        found[section] = [
            (name, values) for name, values in rows if any(value != values[0] for value in values)
        ]
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    names = sorted({*before, *after})
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _settings(record: RunRecord) -> dict[str, Any]:
    """The command and the options beside it, one by one; what was not asked for is left out."""
    stored = record.spec.to_dict()
    asked = {name: value for name, value in stored.items() if name not in _COMPARED_ELSEWHERE}
    environment = stored["environment"]
    flat = {
        "command": valid_utf8(record.spec.command_text),
        **asked,
        **asked.pop("resources"),
        "base": environment["base"],
        "python": environment["python"],
        "pip": environment["pip"],
        "image": environment["image"],
        "image digest": None
        if environment["image"] is None or record.environment is None
        else record.environment.image_digest,
        "apt": environment["apt"],
        "layer": None if record.environment is None else record.environment.layer,
        "interpreter": None if record.environment is None else record.environment.python,
    }
    del flat["resources"]
    return {name: value for name, value in flat.items() if value not in (None, [], "", False)}


def _mounts(mounts: tuple[MountFacts, ...]) -> dict[str, str]:
    return {mount.target: f"{mount.source}{':ro' if mount.read_only else ''}" for mount in mounts}


def _packages(record: RunRecord) -> dict[str, str]:
    """Versions by name in its normal form, so that another spelling is no other package."""
    packages = {} if record.environment is None else record.environment.packages
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in packages.items()}


def _result(record: RunRecord) -> dict[str, Any]:
    ending, outputs = record.ending, record.outputs
    return {
        "status": str(record.status),
        "exit_code": None if ending is None else ending.exit_code,
        "signal": None if ending is None else ending.signal,
        "output_files": None if outputs is None else outputs.files,
        "output_bytes": None if outputs is None else outputs.size_bytes,
    }


def _newest(summaries: Mapping[str, Summary]) -> dict[str, float]:
    return {name: summary.last_value for name, summary in summaries.items()}


_SECTIONS: dict[str, Callable[[RunRecord, Mapping[str, Summary]], Mapping[str, Any]]] = {
    "settings": lambda record, _: _settings(record),
    "params": lambda record, _: record.spec.params,
    "variables": lambda record, _: record.spec.variables,
    "mounts": lambda record, _: _mounts(record.mounts),
    "packages": lambda record, _: _packages(record),
    "result": lambda record, _: _result(record),
    "metrics": lambda _, summaries: _newest(summaries),
}


def _compare_code(home: Home, before: RunRecord, after: RunRecord) -> CodeDifference:
    if before.code is None or after.code is None:
        missing = [str(run.number) for run in (before, after) if run.code is None]
        both_lack = len(missing) == 2
        unknown = None if both_lack else f"the code of run {missing[0]} was not recorded"
        return CodeDifference(unknown=unknown)
    facts = _changes(_code_facts(before.code), _code_facts(after.code))
    if before.code.tree == after.code.tree:
        return CodeDifference(facts)
    bring_code_to_compare(home, before, after)
    try:
        files = _changed_files(home, before.code.tree, after.code.tree)
        with_code = [run.number for run in (before, after) if run.code is not None and run.code.tree]
        return CodeDifference(facts, files, only_in=with_code[0] if len(with_code) == 1 else None)
    except GitError as error:
        return CodeDifference(facts, unknown=f"the files are no longer stored: {error}")


def _code_facts(code: CodeFacts) -> dict[str, Any]:
    facts = {name: getattr(code, name) for name in ("commit", "branch", "dirty", "subfolder", "root_name")}
    return {name: value for name, value in facts.items() if value}


def _changed_files(home: Home, before: str, after: str) -> tuple[FileChange, ...]:
    git = own_git(home.code_repository)
    trees = (before or EMPTY_TREE, after or EMPTY_TREE)
    options = ("diff-tree", "-r", "-z", "--find-renames", "--no-ext-diff", "--no-textconv")
    return tuple(_parse(git(*options, "--raw", "--numstat", *trees)))


def _parse(output: bytes) -> Iterator[FileChange]:
    """What git tells of each file: first how it changed, then how many lines; renamed files by both names."""
    words = iter(output.split(b"\0"))
    kinds: dict[bytes, str] = {}
    for word in words:
        if word.startswith(b":"):
            letter = word.rsplit(b" ", 1)[1][:1].decode()
            path = next(words)
            kinds[next(words) if letter == "R" else path] = _KINDS.get(letter, "modified")
        elif word:
            added, deleted, path = word.split(b"\t", 2)
            before, after = (path, path) if path else (next(words), next(words))
            yield FileChange(_name(after), _name(before), _count(added), _count(deleted), kinds[after])


def _name(path: bytes) -> str:
    return valid_utf8(os.fsdecode(path))


def _count(lines: bytes) -> int | None:
    return None if lines == b"-" else int(lines)
