"""A run that nests folders deeper than a path may be long."""

from conjure.core.home import Home
from support.repositories import read_files
from support.terminal import conjure

_NEST = (
    "echo kept > kept.txt; for i in $(seq 50); do mkdir $(printf 'x%.0s' $(seq 200)); cd x*; done;"
    " echo lost > deep"
)


def test_one_path_that_is_too_long_stays_and_the_rest_is_saved(tmp_path, monkeypatch, conjure_home):
    monkeypatch.chdir(tmp_path)
    done = conjure("run", f'bash -c "{_NEST}"'.replace("$", "\\$"))
    folder = Home(conjure_home).run_folder(1)
    assert done.returncode == 0
    assert read_files(folder / "outputs") == {"kept.txt": "kept\n"}
    assert (folder / "work").exists()
    told = conjure("logs", "1")
    assert "has a path that is too long" in told.stdout + told.stderr
    assert conjure("rm", "runs/1").returncode == 0
    assert not (folder / "work").exists()
