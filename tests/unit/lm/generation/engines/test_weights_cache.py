"""int8 weights are made once, found again, and made anew where anything is wrong with them."""

import os
import shutil

import numpy as np
import pytest

from conjure.core.home import Home
from conjure.lm.generation.engines import weights_cache
from conjure.lm.generation.engines.weights_cache import cached_weights
from conjure.lm.native import status
from support.engines import native_weights
from support.models import tiny_checkpoint, tiny_model

pytestmark = pytest.mark.skipif(status().library is None, reason=status().reason)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    return Home.from_environment()


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "tiny")


class Loading:
    """Loads a checkpoint, and counts how often its weights were made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, folder):
        return cached_weights(folder, self._count)

    def _count(self) -> None:
        self.made += 1


@pytest.fixture
def load():
    return Loading()


def kept(home):
    (path,) = home.native_weights.glob("*.safetensors")
    return path


def assert_equal(one, other) -> None:
    assert set(one.arrays) == set(other.arrays)
    assert all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())


def test_they_are_made_once(folder, load):
    first, second = load(folder), load(folder)
    assert load.made == 1
    assert_equal(first, second)


def test_large_ones_begin_on_a_cache_line(folder, load):
    load(folder)
    arrays = load(folder).arrays.values()
    assert all(array.ctypes.data % 64 == 0 for array in arrays if array.nbytes % 64 == 0)


def test_a_copy_of_the_checkpoint_is_another_file_and_the_same_weights(folder, load, home, tmp_path):
    load(folder)
    shutil.copytree(folder, tmp_path / "copy")
    load(tmp_path / "copy")
    kept(home)  # there is one


def test_a_checkpoint_that_was_changed_is_read_again(folder, load, tmp_path):
    load(folder)
    other = tiny_checkpoint(tmp_path / "other", n_layer=1)
    for path in other.iterdir():
        shutil.copy(path, folder / path.name)
    assert load(folder).config.n_layer == 1
    assert load.made == 2


class TestAFolderThatIsReplacedMeanwhile:
    """Weights are never kept under the digest of other files, nor found where other files were opened."""

    @pytest.fixture
    def replace(self, folder, tmp_path):
        def replace() -> None:
            for path in tiny_checkpoint(tmp_path / "new", seed=1).iterdir():
                path.replace(folder / path.name)

        return replace

    def test_while_its_weights_are_made(self, folder, load, replace):
        assert_equal(cached_weights(folder, replace), native_weights(tiny_model(0)))
        assert_equal(load(folder), native_weights(tiny_model(1)))
        assert load.made == 1
        load(folder)
        assert load.made == 1

    def test_while_its_digest_is_taken(self, folder, load, replace, monkeypatch, tmp_path):
        copy = tiny_checkpoint(tmp_path / "copy of the new one", seed=1)
        load(copy)
        digest = weights_cache._digest
        monkeypatch.setattr(weights_cache, "_digest", lambda folder: replace() or digest(folder))
        load(folder)
        assert_equal(load(copy), native_weights(tiny_model(1)))
        assert load.made == 2

    def test_before_it_is_opened(self, folder, load, replace, monkeypatch):
        load(folder)
        opened = weights_cache.open_weights
        monkeypatch.setattr(weights_cache, "open_weights", lambda folder: replace() or opened(folder))
        assert_equal(load(folder), native_weights(tiny_model(1)))
        assert load.made == 2


@pytest.mark.parametrize("place", [0, 20, -1, -40, 5000])
def test_a_damaged_file_is_made_anew(folder, load, home, place):
    first = load(folder)
    content = bytearray(kept(home).read_bytes())
    content[place] ^= 0x40
    kept(home).write_bytes(content)
    assert_equal(load(folder), first)
    assert load.made == 2
    load(folder)
    assert load.made == 2


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_a_half_written_file_is_made_anew(folder, load, home, size):
    first = load(folder)
    os.truncate(kept(home), size)
    assert_equal(load(folder), first)
    assert load.made == 2


def test_where_nothing_can_be_kept_they_are_made_each_time(folder, load, home):
    home.create()
    home.native_weights.write_text("a file in the way")
    load(folder)
    load(folder)
    assert load.made == 2
