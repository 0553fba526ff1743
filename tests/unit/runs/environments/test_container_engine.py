"""Podman or docker, found or missing, and failures in one sentence. The programs are scripts of the tests."""

import pytest

from conjure.errors import BuildError, UsageError
from conjure.runs.environments import container_engine
from conjure.runs.environments.container_engine import find_engine, require_engine, run_engine


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes programs that are then all there is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(container_engine, "_INIT_FOLDERS", (str(tmp_path / "of-podman"),))
    (tmp_path / "of-podman").mkdir()

    def _install(name, script="#!/bin/sh\n"):
        program = tmp_path / name
        program.write_text(script)
        program.chmod(0o755)
        return program

    return _install


def test_all_that_is_missing_is_named(install):
    with pytest.raises(BuildError, match="neither podman nor docker is installed") as error:
        find_engine()
    assert error.value.hint == "install the packages podman and catatonit"
    install("docker")
    with pytest.raises(UsageError, match="image: catatonit is not installed") as error:
        require_engine()
    assert error.value.hint == "install the package catatonit"


@pytest.mark.parametrize("place", ["catatonit", "of-podman/catatonit"])
def test_the_first_process_is_found_where_distributions_put_it(install, place):
    program, init = install("podman"), install(place)
    assert find_engine() == container_engine.Engine("podman", str(program), init)


def test_podman_comes_before_docker(install):
    install("catatonit")
    install("docker")
    assert find_engine().is_docker
    install("podman")
    assert not find_engine().is_docker


@pytest.mark.parametrize(
    "told",
    [
        "docker: Error response from daemon: No such image.\nSee 'docker run --help'.",
        "docker: Error response from daemon: No such image.\n\nRun 'docker run --help' for more information",
        "Error response from daemon: No such image.",
        "Error: No such image.",
    ],
)
def test_docker_is_told_by_its_error_and_not_its_advice(install, told):
    install("catatonit")
    install("docker", f'#!/bin/sh\n/bin/cat >&2 <<"END"\n{told}\nEND\nexit 125\n')
    with pytest.raises(BuildError, match=r"^docker failed: No such image\.$"):
        run_engine(["run", "x"])


def test_what_podman_prints_is_given(install):
    install("catatonit")
    install("podman", '#!/bin/sh\necho "$@" $VARIABLE\necho progress >&2\n')
    assert run_engine(["image", "inspect"], variables={"VARIABLE": "x"}) == "image inspect x\n"


def test_progress_is_told_without_secrets_and_the_error_is_the_last_line(install):
    install("catatonit")
    lines = ("from https://me:word@host/", "Error: first: https://me:word@host/")
    said = "".join(f"echo '{line}' >&2\n" for line in lines)
    install("podman", f"#!/bin/sh\n{said}exit 125\n")
    told = []
    with pytest.raises(BuildError, match=r"^podman failed: first: https://me:\*\*\*@host/$"):
        run_engine(["pull", "x"], report=told.append)
    assert told == ["from https://me:***@host/"]


def test_progress_that_is_written_over_is_told_once(install):
    install("catatonit")
    install("podman", "#!/bin/sh\nprintf '5%%\\r50%%\\rdone\\n\\nnext\\n'\n")
    told = []
    run_engine(["exec", "x"], report=told.append)
    assert told == ["done", "next"]


@pytest.mark.parametrize(
    ("status", "message"), [(1, "it failed: why"), (125, "podman failed: why"), (127, "podman failed: why")]
)
def test_a_program_that_podman_carries_out_is_told_from_podman_itself(install, status, message):
    install("catatonit")
    install("podman", f"#!/bin/sh\necho 'Error: why'\nexit {status}\n")
    with pytest.raises(BuildError, match=f"^{message}$"):
        run_engine(["exec", "x"], report=str, explain=lambda lines: f"it failed: {lines[0][7:]}")
