"""The lines of code in which a run differs from the commit it is based on, or from another run.

Main entries: `diff_against_commit`, `diff_between_runs`. Invariant: nothing is written, and what is given
back is bounded, however much differs.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conjure.core.home import Home
from conjure.runs.artifacts.availability import bring_code_to_compare
from conjure.runs.code.git import EMPTY_TREE, Git, GitError, own_git, users_git
from conjure.runs.schema.record import RunRecord

LONGEST_BYTES = 1 << 19
_OPTIONS = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "--stat", "--patch")


@dataclass(frozen=True, slots=True)
class CodeDiff:
    """A difference as git writes it.

    Attributes:
        text: Files with counts of lines, then the lines; empty where nothing differs.
        cut: Whether there was more.
        unknown: Why it cannot be told, or None.
    """

    text: str = ""
    cut: bool = False
    unknown: str | None = None


def diff_against_commit(home: Home, record: RunRecord) -> CodeDiff:
    """What a run's code has that the commit it is based on has not, and the other way round."""
    code = record.code
    if code is None or code.commit is None:
        return CodeDiff(unknown="the code was not in a git repository")
    if not code.dirty:
        return CodeDiff()
    return _diff(_with_objects_of(own_git(home.code_repository), record.spec.folder), code.commit, code.tree)


def diff_between_runs(home: Home, before: RunRecord, after: RunRecord) -> CodeDiff:
    """What differs between the code of two runs."""
    if before.code is None or after.code is None:
        return CodeDiff(unknown="the code of one of the runs was not recorded")
    bring_code_to_compare(home, before, after)
    trees = (before.code.tree or EMPTY_TREE, after.code.tree or EMPTY_TREE)
    return CodeDiff() if trees[0] == trees[1] else _diff(own_git(home.code_repository), *trees)


def _diff(git: Git, before: str, after: str) -> CodeDiff:
    try:
        output = git(*_OPTIONS, f"{before}^{{tree}}", f"{after}^{{tree}}")
    except GitError as error:
        return CodeDiff(unknown=f"the files are no longer stored: {error.reason}")
    return CodeDiff(output[:LONGEST_BYTES].decode(errors="replace"), len(output) > LONGEST_BYTES)


def _with_objects_of(git: Git, folder: Path) -> Git:
    """Git that also finds what is in the user's repository, for a commit is there and not with us."""
    with suppress(GitError):
        objects = users_git(folder)("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
        return Git(git.settings, {**git.variables, "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.fsdecode(objects)})
    return git
