from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import NotFoundError, UsageError
from conjure.runs.environments import local_packages as local_packages_module
from conjure.runs.environments.local_packages import (
    keep_packages,
    local_packages,
    replace_path,
    with_absolute_paths,
)
from conjure.runs.environments.pip_requirements import read_requirements
from conjure.runs.schema.spec import EnvironmentChoice


def test_files_are_put_together_and_includes_put_in_place(home, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("tqdm==4.0\n# a remark\n-r sub/b.txt\nregex  # why\n")
    (tmp_path / "sub" / "b.txt").write_text("numpy\n--requirement=c.txt")
    (tmp_path / "sub" / "c.txt").write_text("scipy\n")
    (tmp_path / "d.txt").write_text("pandas\n")
    text, notes = read_requirements(home, [tmp_path / "a.txt", tmp_path / "d.txt"])
    assert text == "tqdm==4.0\n# a remark\nnumpy\nscipy\nregex  # why\npandas\n"
    assert notes == []


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The folder the user stands in; the requirements lie elsewhere."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "line", ["-e .", "--editable=.", ".", "./", ".[all]", "file:.", '. ; python_version >= "3.9"']
)
def test_the_runs_own_code_is_left_out_with_a_note(home, tmp_path, line):
    file = tmp_path / "r.txt"
    file.write_text(f"tqdm\n{line}\n")
    text, notes = read_requirements(home, [file])
    assert text == "tqdm\n"
    assert notes == [f"{file}, line 2: {line} is left out: a run's own code is not installed"]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("-e git+https://host/x.git@v1#egg=x", "git+https://host/x.git@v1#egg=x"),
        ("--editable=git+ssh://git@host/x.git", "git+ssh://git@host/x.git"),
        ("x @ file:///a/b.whl", "x @ file:///a/b.whl"),
        ("--index-url https://host/simple", "--index-url https://host/simple"),
    ],
)
def test_addresses_are_kept(home, tmp_path, line, kept):
    file = tmp_path / "r.txt"
    file.write_text(f"{line}\n")
    assert read_requirements(home, [file]) == (f"{kept}\n", [])


WHEEL = "x-1-py3-none-any.whl"


@pytest.mark.parametrize("line", [f"./{WHEEL}", f"-e ./{WHEEL}", f"file:{WHEEL}"])
def test_a_wheel_is_kept_by_its_digest(home, project, tmp_path, line):
    (project / WHEEL).write_bytes(b"one")
    file = tmp_path / "r.txt"
    file.write_text(f"{line}  # ours\n")
    text, notes = read_requirements(home, [file])
    (project / WHEEL).write_bytes(b"two")
    kept = Path(text.strip())
    assert kept.read_bytes() == b"one"
    assert kept.is_relative_to(home.datasets)
    assert kept.name == WHEEL
    assert notes == []
    assert read_requirements(home, [file])[0] != text


@pytest.mark.parametrize(
    "option",
    ["--find-links wheels", "-f ./wheels", "--find-links=wheels", "-i ./wheels", "-f wheels  # ours"],
)
def test_folders_of_wheels_are_named_in_full(home, project, tmp_path, option):
    (project / "wheels").mkdir()
    file = tmp_path / "r.txt"
    file.write_text(f"{option}\n")
    text, _ = read_requirements(home, [file])
    assert text.split()[1] == str(project / "wheels")
    assert ("# ours" in text) == ("# ours" in option)


@pytest.mark.parametrize(
    "rest", [' ; python_version >= "3.9"', f" --hash=sha256:{'0' * 64}", " \\\n    --hash=sha256:0  # ours"]
)
def test_conditions_and_digests_of_a_wheel_stay(home, project, tmp_path, rest):
    (project / WHEEL).write_bytes(b"one")
    file = tmp_path / "r.txt"
    file.write_text(f"./{WHEEL}{rest}\n")
    text, _ = read_requirements(home, [file])
    kept = text.split()[0]
    assert Path(kept).read_bytes() == b"one"
    assert text == f"{kept}{rest}\n"
    assert local_packages(EnvironmentChoice(requirements=text)) == [WHEEL]
    placed = replace_path(f"{kept}{rest}".partition("\n")[0], lambda path: f"/placed{path}")
    assert placed == f"/placed{kept}{rest}".partition("\n")[0]


def test_what_is_named_here_is_looked_for_here(home, project):
    (project / WHEEL).write_bytes(b"one")
    names = ("tqdm", f"./{WHEEL}[extra]", "y @ https://host/y.whl", "git+https://host/z")
    tqdm, wheel, *addresses = keep_packages(home, names, project)
    assert (tqdm, *addresses) == (names[0], *names[2:])
    assert wheel.endswith(f"{WHEEL}[extra]")
    with pytest.raises(NotFoundError, match=r"there is no file or folder .*/none\.whl to install"):
        keep_packages(home, ["none.whl"], project)


def test_a_folder_is_built_as_pip_is_configured_where_the_user_stands(home, project, tmp_path, monkeypatch):
    pip = tmp_path / "python"
    pip.write_text('#!/bin/sh\necho "global.index-url=\'$(cat "$PIP_CONFIG_FILE")\'"\n')
    pip.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pip))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.conf").write_text("https://mirror/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "pip.conf")
    indices = []

    def build(arguments, *, variables, **_):
        indices.append(variables.get("UV_DEFAULT_INDEX"))
        (Path(arguments[3]) / WHEEL).touch()

    monkeypatch.setattr(local_packages_module, "run_uv", build)
    keep_packages(home, ["."], project)
    assert indices == ["https://mirror/simple"]


def test_folders_of_wheels_in_variables(project):
    (project / "wheels").mkdir()
    given = {"PIP_FIND_LINKS": "wheels https://host/x none", "UV_FIND_LINKS": "wheels,/abs", "A": "wheels"}
    assert with_absolute_paths(given, project) == {
        "PIP_FIND_LINKS": f"{project}/wheels https://host/x none",
        "UV_FIND_LINKS": f"{project}/wheels,/abs",
        "A": "wheels",
    }


def test_files_of_settings_and_constraints_in_variables(project):
    for name in ("a.txt", "b.txt", "pip conf"):
        (project / name).touch()
    given = {
        "PIP_CONSTRAINT": "a.txt  b.txt",
        "UV_CONSTRAINT": "a.txt",
        "PIP_CONFIG_FILE": "pip conf",
        "PIP_CERT": "",
    }
    assert with_absolute_paths(given, project) == {
        "PIP_CONSTRAINT": f"{project}/a.txt {project}/b.txt",
        "UV_CONSTRAINT": f"{project}/a.txt",
        "PIP_CONFIG_FILE": f"{project}/pip conf",
        "PIP_CERT": "",
    }


def test_what_is_not_there_or_cannot_be_kept_is_refused(home, tmp_path):
    with pytest.raises(NotFoundError, match="there is no requirements file"):
        read_requirements(home, [tmp_path / "no.txt"])
    file = tmp_path / "r.txt"
    file.write_text("-c constraints.txt\n")
    with pytest.raises(UsageError, match="line 1: constraints"):
        read_requirements(home, [file])
    file.write_text("-r r.txt\n")
    with pytest.raises(UsageError, match="includes itself"):
        read_requirements(home, [file])
    file.write_bytes(b"\xff\xfe\xe9")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        read_requirements(home, [file])
