"""Resources as values: what records hold, taken apart and put together again."""

import pytest

from conjure.runs.schema.resource import KEPT_FILES, Resource


@pytest.mark.parametrize(
    ("source", "resource", "owner", "number"),
    [
        ("runs/12", Resource("runs", "12"), "runs/12", 12),
        ("runs/12/a/b.txt", Resource("runs", "12", None, ("a", "b.txt")), "runs/12", 12),
        ("uploads/jokes@2/a@3", Resource("uploads", "jokes", 2, ("a@3",)), "uploads/jokes@2", None),
        ("uploads/jokes", Resource("uploads", "jokes"), "uploads/jokes", None),
        (
            f"{KEPT_FILES}/0a1b/my file.csv",
            Resource(KEPT_FILES, "0a1b", None, ("my file.csv",)),
            f"{KEPT_FILES}/0a1b/my file.csv",
            None,
        ),
    ],
)
def test_a_source_is_taken_apart_and_put_together_again(source, resource, owner, number):
    assert Resource.of_source(source) == resource
    assert str(resource) == source
    assert (resource.owner, resource.number) == (owner, number)


@pytest.mark.parametrize("source", ["", "/", "runs", "runs/", "runs/x", "uploads/a@b", "datasets/other", "x"])
def test_whatever_a_damaged_record_holds_is_no_run(source):
    assert Resource.of_source(source).number is None
