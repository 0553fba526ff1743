"""Finding the native library: what is said, and when it is not used."""

import shutil
import subprocess
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.errors import UsageError
from conjure.lm.native import describe, library, status
from conjure.lm.native.library import ABI_VERSION, INSTRUCTIONS, VARIABLE, open_library
from support.native import native_status

SOURCE = Path(__file__).parents[4] / "src/conjure/lm/native/forward.c"


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_each_instruction_set_can_be_forced(instructions, monkeypatch):
    found = native_status(instructions, monkeypatch)
    assert (found.instructions, found.reason) == (instructions, f"{VARIABLE} asks for them")
    assert describe() == f"native, {instructions} instructions ({VARIABLE} asks for them)"


@pytest.mark.parametrize("word", ["", "auto"])
def test_left_alone_it_takes_the_best(word, monkeypatch):
    native_status("portable", monkeypatch)  # skips where nothing was built
    monkeypatch.setenv(VARIABLE, word)
    best = status().instructions
    better = INSTRUCTIONS[INSTRUCTIONS.index(best) + 1 :]
    why = status().reason  # where AMX is refused, this says so
    assert describe() == f"native, {best} instructions ({why})"
    assert why == "the best this processor has" or best == "avx512vnni"
    for instructions in better:
        monkeypatch.setenv(VARIABLE, instructions)
        with pytest.raises(UsageError, match="; allowed here are"):
            status()


def test_off_is_off(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert status().library is None
    assert describe() == f"torch, because {VARIABLE} is off"


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx3")
    with pytest.raises(UsageError) as caught:
        status()
    assert str(caught.value) == f"{VARIABLE} is 'avx3'; allowed: auto, off, portable, avx2, avx512vnni, amx"


@pytest.mark.parametrize(
    ("tiles", "reason"),
    [
        (1, "the best this processor has"),
        (2, "Linux does not let this process use AMX"),
        (3, "AMX gave other numbers in a check"),
        (4, "the best this processor has"),
    ],
)
def test_it_says_why_amx_is_not_used(tiles, reason, monkeypatch):
    found = SimpleNamespace(conjure_instructions=lambda: 3 if tiles == 4 else 2, conjure_tiles=lambda: tiles)
    monkeypatch.setattr(library, "open_library", lambda _: found)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert status().reason == reason
    monkeypatch.setenv(VARIABLE, "amx")
    if tiles == 4:
        assert status().instructions == "amx"
    else:
        why = f"but {reason}" if tiles > 1 else "which this processor does not have"
        with pytest.raises(UsageError, match=f"'amx', {why}; allowed here are"):
            status()


class TestUnusableLibraries:
    def test_none_was_built(self, tmp_path):
        assert open_library(tmp_path) == (
            "the native engine was not built: installing conjure found no C compiler it could use"
        )

    def test_a_file_that_is_no_library(self, tmp_path):
        (tmp_path / "_forward.so").write_bytes(b"not a library")
        assert str(open_library(tmp_path)).startswith("the native engine could not be loaded: ")

    @pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("int conjure_abi(void) { return -1; }", "was built from other sources; reinstall conjure"),
            ("int other(void) { return 0; }", "could not be loaded"),
        ],
    )
    def test_a_library_of_other_sources(self, tmp_path, source, reason):
        (tmp_path / "other.c").write_text(source)
        build = ["cc", "-shared", "-fPIC", "-o", tmp_path / "_forward.so", tmp_path / "other.c"]
        subprocess.run(build, check=True, timeout=60)
        assert reason in str(open_library(tmp_path))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_library_of_this_python_is_taken(tmp_path):
    (tmp_path / "_forward.cpython-300-other.so").write_bytes(b"another Python's")
    (tmp_path / "own.c").write_text("int conjure_abi(void) { return -1; }")
    own = tmp_path / f"_forward{EXTENSION_SUFFIXES[0]}"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", own, tmp_path / "own.c"], check=True, timeout=60)
    assert "was built from other sources" in str(open_library(tmp_path))


def test_another_python_s_library_is_none(tmp_path):
    (tmp_path / "_forward.cpython-300-other.so").write_bytes(b"another Python's")
    assert "was not built" in str(open_library(tmp_path))


def test_both_halves_state_the_same_abi():
    assert f"#define ABI_VERSION {ABI_VERSION} " in SOURCE.read_text()
