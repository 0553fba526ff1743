import os
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.images import Image
from conjure.runs.lifecycle.command_environment import (
    WorkingDirectory,
    command_variables,
    container_variables,
    metric_logging_folder,
)
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from support.repositories import write_files

PLACE = WorkingDirectory(Path("/work"), Path("/work/sub"))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).create()


def variables(
    home, given=(), *, place=PLACE, prefix=None, packages=("conjure",), gpus=None, gpu_ids=(), **asked
):
    environment = Environment(
        "digest", Path("/e/bin/python"), Path("/e/bin"), dict.fromkeys(packages, "1"), prefix
    )
    needs = ComputeRequest(asked.pop("cpus", None), gpus)
    spec = RunSpec(command=("true",), folder=Path("/"), resources=needs, **asked)
    record = RunRecord(7, spec, gpu_ids=gpu_ids)
    return command_variables(home, record, place, environment, dict(given))


def test_the_codes_root_comes_first_on_the_path_of_modules(home, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert variables(home)["PYTHONPATH"] == "/work"
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert variables(home)["PYTHONPATH"] == "/work:/mine"
    assert variables(home, {"PYTHONPATH": "/given"})["PYTHONPATH"] == "/work:/given"


def test_the_code_of_a_run_that_casts_another_is_not_found_by_that(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{home.run_folder(3)}/work:/mine")
    assert variables(home)["PYTHONPATH"] == "/work:/mine"


def test_an_environment_without_conjure_finds_it_last(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    folder = variables(home, packages=())["PYTHONPATH"].split(":")[2]
    assert (Path(folder) / "conjure" / "metric_logging.py").is_file()
    assert variables(home, packages=())["PYTHONPATH"] == f"/work:/mine:{folder}"


def test_what_a_run_is_told(home, monkeypatch):
    monkeypatch.setenv("CONJURE_RUN", "3")
    monkeypatch.setenv("OLDPWD", "/old")
    told = variables(home, {"GIVEN": "x", "CONJURE_RUN": "9"})
    assert (told["CONJURE_RUN"], told["CONJURE_HOME"], told["GIVEN"]) == ("7", str(home.root), "x")
    assert told["CONJURE_METRICS_FILE"] == str(home.run_folder(7) / "metrics.jsonl")
    assert (told["PWD"], told["PYTHONUNBUFFERED"]) == ("/work/sub", "1")
    assert "OLDPWD" not in told


def test_a_built_environment_comes_first_on_the_path_of_programs(home, monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("VIRTUAL_ENV", "/callers")
    assert (variables(home)["PATH"], variables(home)["VIRTUAL_ENV"]) == ("/bin", "/callers")
    built = variables(home, prefix=Path("/e"))
    assert (built["PATH"], built["VIRTUAL_ENV"]) == ("/e/bin:/bin", "/e")


def test_a_run_sees_the_gpus_it_was_given(home, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in variables(home)
    assert variables(home, gpus=2, gpu_ids=(1, 3))["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert "CUDA_VISIBLE_DEVICES" not in variables(home, gpus=2, on="gpu")  # the cluster chooses them


def test_packages_in_src_are_found_before_the_callers(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    (tmp_path / "code" / "src").mkdir(parents=True)
    root = tmp_path / "code"
    told = variables(home, place=WorkingDirectory(root, root))
    assert told["PYTHONPATH"] == f"{root}:{root}/src:/mine"


def test_a_container_is_given_the_runs_variables_and_what_its_image_has_for_modules(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/this/machine")
    monkeypatch.setenv("OF_THIS_MACHINE", "x")
    image = Image("sha256:1", {"PYTHONPATH": "/of/the/image", "PATH": "/bin"})
    record = RunRecord(7, RunSpec(command=("true",), folder=Path("/")))
    told = container_variables(home, record, PLACE, image, {"GIVEN": "x"})
    assert told["PYTHONPATH"] == f"/work:/of/the/image:{metric_logging_folder(home)}"
    assert told.keys() == {
        *("GIVEN", "PYTHONPATH", "PYTHONUNBUFFERED"),
        *("CONJURE_HOME", "CONJURE_RUN", "CONJURE_METRICS_FILE"),
    }


def test_processes_that_work_together_share_the_cores(home, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("conjure.runs.lifecycle.command_environment.physical_cores", lambda: 8)
    assert "OMP_NUM_THREADS" not in variables(home)
    for asked, threads in (((2, 8), 4), ((2, 6.5), 3), ((3, 8), 2), ((4, 1), 1), ((2, 16), 4)):
        processes, cpus = asked
        assert variables(home, distributed=processes, cpus=cpus)["OMP_NUM_THREADS"] == str(threads)
    assert variables(home, {"OMP_NUM_THREADS": "7"}, distributed=2)["OMP_NUM_THREADS"] == "7"


def test_a_conjure_that_was_installed_elsewhere_since_is_the_one_that_is_found(home):
    link = metric_logging_folder(home) / "conjure"
    package = link.readlink()
    made = link.lstat().st_ino
    metric_logging_folder(home)
    assert link.lstat().st_ino == made  # while runs may be reading it
    link.unlink()
    link.symlink_to("/no/longer/there")
    metric_logging_folder(home)
    assert link.readlink() == package


def test_what_a_process_of_the_same_number_left_is_in_nobodys_way(home):
    home.create()
    write_files(home.importable, {f".conjure.{os.getpid()}": "on another node, or of one that was killed"})
    assert (metric_logging_folder(home) / "conjure" / "__init__.py").is_file()
