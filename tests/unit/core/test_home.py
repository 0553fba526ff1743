import pytest

from conjure.core.home import Home
from conjure.errors import StoreError


def mode(folder):
    return folder.stat().st_mode & 0o777


def test_a_new_home_is_private(tmp_path):
    home = Home(tmp_path / "a" / "b").create()
    assert mode(home.root) == 0o700


def test_a_home_that_was_opened_up_is_closed_again(tmp_path):
    home = Home(tmp_path / "home").create()
    home.database.touch()
    home.root.chmod(0o755)
    home.create()
    assert mode(home.root) == 0o700


def test_a_folder_that_others_rely_on_keeps_its_mode(tmp_path):
    (tmp_path / "theirs").touch()
    tmp_path.chmod(0o755)
    Home(tmp_path).create()
    assert mode(tmp_path) == 0o755


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        Home(tmp_path / "file" / "home").create()


def test_a_home_that_path_could_not_hold_is_refused(tmp_path):
    with pytest.raises(StoreError, match="could not have it on its PATH"):
        Home(tmp_path / "a:b").create()
    assert not (tmp_path / "a:b").exists()


def test_what_was_fetched_of_a_run_counts_before_what_an_attempt_left_here(tmp_path):
    home = Home(tmp_path)
    (home.runs / "1").mkdir(parents=True)
    assert (home.is_elsewhere(1), home.run_folder(1)) == (False, home.runs / "1")
    (home.fetched / "1").mkdir(parents=True)
    assert (home.is_elsewhere(1), home.run_folder(1)) == (True, home.fetched / "1")


def test_a_home_of_a_user_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", "~nobody-here/home")
    with pytest.raises(
        StoreError, match="CONJURE_HOME is ~nobody-here/home, and there is no user 'nobody-here'"
    ):
        Home.from_environment()
