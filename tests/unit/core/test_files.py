"""Files that are written whole."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conjure.core.files import expand_user, staging_folder, write_atomically


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


def test_what_a_kill_left_is_removed_by_the_next_and_what_is_in_use_stays(tmp_path: Path) -> None:
    program = "import os, sys; from pathlib import Path; from conjure.core.files import staging_folder\n"
    program += "with staging_folder(Path(sys.argv[1]), '.x-') as folder:\n"
    program += "    (folder / 'big').write_text('x')\n    os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".x-notes", ".x-12345678.txt", ".x-")]
    for path in others:
        path.write_text("mine")
    with staging_folder(tmp_path, ".x-") as one:
        assert not left.exists()
        with staging_folder(tmp_path, ".x-") as other:
            assert sorted(tmp_path.iterdir()) == sorted([*others, one, other])
        assert one.is_dir()
    assert sorted(tmp_path.iterdir()) == sorted(others)
