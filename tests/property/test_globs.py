"""Globs mean what gitignore says they mean: git itself is the oracle."""

import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conjure.core.globs import GlobSet

_LEAVES = ["a", "b", "ab", "a.b", "ba", "a]", "-", "a-b", "!", "a\nb"]
_FOLDERS = ["", "d/", "a.d/", "d/e/", "d/a.d/"]
_NAMES = [folder + leaf for folder, leaf in itertools.product(_FOLDERS, _LEAVES)]

# Not `!` or `#` first, no space or backslash last: those are gitignore's own line syntax, not its patterns.
# `**` only as a whole segment: beside other letters gitignore's manual and git itself disagree.
_WORD = st.lists(
    st.sampled_from(["a", "b", "d", "e", ".", "*", "?", "[ab]", "[!a]", "[a-b]", "[]a]", "-", "\\a"]),
    min_size=1,
    max_size=4,
).map("".join)
_SEGMENT = _WORD.filter(lambda word: "**" not in word and word not in (".", "..")) | st.just("**")
_PATTERNS = st.tuples(
    st.sampled_from(["", "/"]),
    st.lists(_SEGMENT, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "/"]),
).map("".join)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("globs")
    subprocess.run(["git", "init", "-q", "--template=", str(root)], check=True)
    for name in _NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _git_matches(root: Path, pattern: str) -> set[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", "--ignored", f"--exclude={pattern}"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")) - {""}


@given(pattern=_PATTERNS)
@example(pattern="d/**/b")
@example(pattern="/a")
@example(pattern="d/")
@example(pattern="**/e/a")
@example(pattern="d/*")
@example(pattern="[")
@settings(max_examples=60)
def test_glob_matches_what_git_would_ignore(tree: Path, pattern: str) -> None:
    chosen = GlobSet([pattern])
    assert {name for name in _NAMES if chosen.matches(name)} == _git_matches(tree, pattern)
