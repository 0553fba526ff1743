"""Files that are written whole."""

import os
import stat
from pathlib import Path

import pytest

from conjure.core.files import expand_user, write_atomically


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o777, 0o600)])
def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "content")
        write_atomically(tmp_path / "given", "content", mode=0o640)
        assert os.umask(umask) == umask  # it was not changed
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "given")]
    assert modes == [mode, 0o640]
    assert (tmp_path / "file").read_text() == "content"


def test_the_home_folder_of_a_user_that_does_not_exist_stays_as_it_is(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [expand_user("~/a"), expand_user("~nobody-here/a")] == [Path("/home/me/a"), Path("~nobody-here/a")]
