"""Patterns for file names."""

import pytest

from conjure.core.globs import GlobSet


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "deep/er/a.csv", True),
        ("*.csv", "a.csv.gz", False),
        ("results", "results/a/b.txt", True),
        ("results/", "results", False),
        ("results/", "results/a", True),
        ("/a.txt", "a.txt", True),
        ("/a.txt", "b/a.txt", False),
        ("./a.txt", "a.txt", True),
        ("runs/*/best.pt", "runs/1/best.pt", True),
        ("runs/*/best.pt", "runs/1/2/best.pt", False),
        ("runs/**/best.pt", "runs/1/2/best.pt", True),
        ("runs/**", "runs/1/2", True),
        ("a?c", "a/c", False),
        ("[!a]", "b", True),
        ("[!a]", "a", False),
        ("[z-a]", "z", False),
        ("[", "[", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("new\nline", "new\nline", True),
    ],
)
def test_match(pattern: str, name: str, expected: bool) -> None:
    assert GlobSet([pattern]).matches(name) is expected


def test_no_patterns_match_nothing() -> None:
    assert not GlobSet([]).matches("a")
    assert not GlobSet([])


def test_any_of_several() -> None:
    chosen = GlobSet(["*.csv", "logs/"])
    assert [name for name in ("a.csv", "logs/b", "c") if chosen.matches(name)] == ["a.csv", "logs/b"]
