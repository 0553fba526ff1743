"""The lines of code in which a run differs from the commit it is based on, or from another run.

Main entries: `diff_against_commit`, `diff_between_runs`. Invariant: nothing is kept, and what is given
back is bounded, however much differs.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from conjure.core.home import Home
from conjure.runs.artifacts.team_transfer import bring_code_to_compare
from conjure.runs.code.comparable_tree import comparable_tree
from conjure.runs.code.git import EMPTY_TREE, Git, GitError, own_git, read_start
from conjure.runs.schema.record import RunRecord

LONGEST_BYTES = 1 << 19
_OPTIONS = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "--stat", "--patch")


@dataclass(frozen=True, slots=True)
class CodeDiff:
    """A difference as git writes it.

    Attributes:
        text: Files with counts of lines, then the lines; empty where nothing differs.
        cut: Whether there was more.
        left_out: What was not compared, one sentence each.
        unknown: Why it cannot be told, or None.
    """

    text: str = ""
    cut: bool = False
    left_out: tuple[str, ...] = ()
    unknown: str | None = None


def diff_against_commit(home: Home, record: RunRecord) -> CodeDiff:
    """What a run's code has that the commit it is based on has not, and the other way round."""
    code = record.code
    if code is None or code.commit is None:
        return CodeDiff(unknown="the code was not in a git repository")
    if not code.dirty:
        return CodeDiff()
    with tempfile.TemporaryDirectory(prefix="conjure-diff-") as scratch:
        try:
            found = comparable_tree(home, code.commit, code.tree, record.spec.folder, Path(scratch))
        except GitError as error:
            return _gone(error)
        return replace(_diff(found.git, found.tree, code.tree), left_out=found.left_out)


def diff_between_runs(home: Home, before: RunRecord, after: RunRecord) -> CodeDiff:
    """What differs between the code of two runs."""
    if before.code is None or after.code is None:
        return CodeDiff(unknown="the code of one of the runs was not recorded")
    bring_code_to_compare(home, before, after)
    trees = (before.code.tree or EMPTY_TREE, after.code.tree or EMPTY_TREE)
    return CodeDiff() if trees[0] == trees[1] else _diff(own_git(home.code_repository), *trees)


def _diff(git: Git, before: str, after: str) -> CodeDiff:
    try:
        process = git.start(*_OPTIONS, f"{before}^{{tree}}", f"{after}^{{tree}}")
        output = read_start(process, "diff", LONGEST_BYTES + 1)
    except GitError as error:
        return _gone(error)
    return CodeDiff(output[:LONGEST_BYTES].decode(errors="replace"), len(output) > LONGEST_BYTES)


def _gone(error: GitError) -> CodeDiff:
    return CodeDiff(unknown=f"the files are no longer stored: {error.reason}")
