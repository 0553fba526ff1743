"""The native engine with each of its instruction sets, where the processor has them."""

import pytest

from conjure.errors import UsageError
from conjure.lm.native import library
from conjure.lm.native.library import Status, status


def native_status(instructions: str, monkeypatch: pytest.MonkeyPatch) -> Status:
    """The status of the engine forced to these instructions; skips the test where it cannot be."""
    monkeypatch.setenv(library.VARIABLE, instructions)
    try:
        found = status()
    except UsageError as error:
        pytest.skip(str(error))
    if found.library is None:
        pytest.skip(found.reason)
    return found
