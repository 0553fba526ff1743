"""How the two scripts end, whatever happens in them."""

import io
import sys

import pytest

from conjure.compat.script import run


def test_a_file_that_cannot_be_written_is_one_sentence(capsys):
    def script(_arguments):
        raise PermissionError(13, "Permission denied", "/there/model")

    assert run("conjure.compat.run_generation", script, []) == 1
    assert capsys.readouterr().err == "error: /there/model: Permission denied\n"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_too_little_memory_is_one_sentence(capsys, error):
    def script(_arguments):
        raise error

    assert run("conjure.compat.run_generation", script, []) == 1
    assert capsys.readouterr().err.startswith("error: not enough memory: ")


def test_another_fault_of_torch_is_not_hidden():
    def script(_arguments):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run("conjure.compat.run_generation", script, [])


def test_letters_that_the_locale_does_not_have_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="iso-8859-1"))

    def script(_arguments):
        print("é 漢")
        return 0

    assert run("conjure.compat.run_generation", script, []) == 0
    assert written.getvalue() == b"\xe9 \\u6f22\n"
