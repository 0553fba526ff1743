"""Errors of the system in words."""

import errno

import pytest

from conjure.core.text import error_text


@pytest.mark.parametrize(
    ("error", "text", "with_path"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "No space left on device",
            "No space left on device: /a/b",
        ),
        (OSError("what a library says"), "what a library says", "what a library says"),
        (OSError(), "OSError", "OSError"),
        (ValueError("no table"), "no table", "no table"),
        (ValueError(), "ValueError", "ValueError"),
    ],
)
def test_an_error_is_words_and_never_none(error, text, with_path):
    assert error_text(error) == text
    assert error_text(error, with_path=True) == with_path
