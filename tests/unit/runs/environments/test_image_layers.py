"""Requests for images with packages added, and what is kept of those that were built."""

import json
import os
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.environments.image_build import _explanation, _MountedFiles, _pip_arguments
from conjure.runs.environments.image_layers import (
    Layer,
    PrunedLayers,
    find_layer,
    keep_layer,
    layer_digest,
    prune,
    requested_digest,
)
from conjure.runs.environments.images import Image
from conjure.runs.environments.local_packages import replace_path
from conjure.runs.schema.spec import EnvironmentChoice

BASE = Image("sha256:base")
DIGEST = "0" * 32


def choice(**packages):
    return EnvironmentChoice(image="localhost/x:1", **packages)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Installs engines that have the image ``sha256:layer``, and gives the file with what they are asked."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    told = json.dumps([{"Id": "layer", "Size": 30, "Config": {"Env": ["A=b"]}}])
    monkeypatch.setenv("PATH", str(folder))

    def install(*names):
        for name in names:
            script = (
                f'#!/bin/sh\necho "{name} $@" >> {said}\n'
                f"case \"$*\" in *sha256:layer*) echo '{told}';; *inspect*) exit 1;; esac\n"
            )
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        return said

    return install


@pytest.fixture
def podman(programs):
    return programs("podman", "catatonit")


def test_the_order_of_packages_asks_for_nothing_else():
    one = requested_digest(BASE, choice(apt=("a1", "b1"), pip=("x", " y")))
    assert requested_digest(BASE, choice(apt=("b1", "a1", "b1"), pip=("y", "x"))) == one


def test_other_packages_or_another_image_ask_for_something_else():
    asked = [
        choice(apt=("a1",)),
        choice(apt=("a1=2",)),
        choice(pip=("a1",)),
        choice(requirements="a1"),
        choice(apt=("a1",), pip=("a1",)),
    ]
    digests = [requested_digest(base, each) for each in asked for base in (BASE, Image("sha256:other"))]
    assert len(set(digests)) == len(digests)


def test_without_packages_the_image_itself_is_asked_for():
    assert requested_digest(BASE, choice(requirements=" \n")) == BASE.digest


def test_a_layer_is_found_as_it_was_kept(home, podman):
    assert find_layer(home, DIGEST) is None
    keep_layer(home, Layer(DIGEST, Image("sha256:layer"), {"tqdm": "4.0"}, 7))
    layer = find_layer(home, DIGEST)
    assert (layer.image, layer.packages) == (Image("sha256:layer", {"A": "b"}, 30), {"tqdm": "4.0"})


def test_versions_are_asked_for_unless_a_layer_has_them_anyway(home, podman):
    variables = {"PIP_CONFIG_FILE": os.devnull, "PATH": "", "HOME": str(home.root)}
    free = layer_digest(home, BASE, choice(pip=("tqdm",)), variables)
    fixed = choice(pip=("tqdm",), constraints=("tqdm==4.0", "unused==1"))
    assert layer_digest(home, BASE, fixed, variables) != free
    keep_layer(home, Layer(free, Image("sha256:layer"), {"Tqdm": "4.0"}))
    assert layer_digest(home, BASE, fixed, variables) == free
    keep_layer(home, Layer(free, Image("sha256:layer"), {"Tqdm": "5.0"}))
    assert layer_digest(home, BASE, fixed, variables) != free
    assert layer_digest(home, BASE, choice(pip=("tqdm",)), variables | {"PIP_PRE": "1"}) != free
    assert layer_digest(home, BASE, choice(apt=("tree",)), variables | {"PIP_PRE": "1"}) == layer_digest(
        home, BASE, choice(apt=("tree",)), variables
    )


def test_a_layer_whose_image_is_gone_or_whose_record_is_damaged_is_built_again(home, podman):
    keep_layer(home, Layer(DIGEST, Image("sha256:gone")))
    assert find_layer(home, DIGEST) is None
    (home.environments / "images" / f"{DIGEST}.podman.json").write_text("{")
    assert find_layer(home, DIGEST) is None


def test_layers_that_no_run_needs_are_removed_with_their_images(home, podman):
    keep_layer(home, Layer(DIGEST, Image("sha256:layer"), {}, 7))
    keep_layer(home, Layer("1" * 32, Image("sha256:gone"), {}, 100))
    assert prune(home, {DIGEST, "1" * 32}) == PrunedLayers(0, 0)
    assert prune(home, {"2" * 32}) == PrunedLayers(2, 7)
    removed = [line for line in podman.read_text().splitlines() if " rmi " in line]
    assert removed == ["podman rmi --no-prune sha256:layer"]
    assert prune(home, set()) == PrunedLayers(0, 0)


def test_a_layer_is_removed_in_the_engine_that_it_was_built_with(home, programs):
    said = programs("docker", "catatonit")
    keep_layer(home, Layer(DIGEST, Image("sha256:layer"), {}, 7))
    programs("podman", "catatonit")  # which runs use from now on
    assert find_layer(home, DIGEST) is None
    keep_layer(home, Layer(DIGEST, Image("sha256:layer"), {}, 20))  # built again, with the other engine
    said.write_text("")
    assert prune(home, set()) == PrunedLayers(2, 27)
    removed = [line for line in said.read_text().splitlines() if " rmi " in line]
    assert removed == ["docker rmi --no-prune sha256:layer", "podman rmi --no-prune sha256:layer"]
    assert prune(home, set()) == PrunedLayers(0, 0)


def test_a_layer_of_an_engine_that_is_gone_is_told_and_kept_for_later(home, programs, tmp_path):
    programs("docker", "catatonit")
    for digest in (DIGEST, "1" * 32):
        keep_layer(home, Layer(digest, Image("sha256:layer"), {}, 7))
    (tmp_path / "bin" / "docker").unlink()
    programs("podman")
    keep_layer(home, Layer("2" * 32, Image("sha256:layer"), {}, 20))
    told = ("2 images built with docker: docker is not installed",)
    assert prune(home, set()) == PrunedLayers(1, 20, told)
    programs("docker")
    assert prune(home, set()) == PrunedLayers(2, 14)


def test_files_of_this_machine_are_read_where_they_are_mounted(tmp_path):
    wheel = tmp_path / "x.whl"
    wheel.touch()
    files = _MountedFiles()
    placed = [replace_path(line, files.place) for line in (f"{wheel}[extra]", f"--find-links {tmp_path}")]
    assert placed == [
        "/dev/conjure-build/0/x.whl[extra]",
        f"--find-links /dev/conjure-build/1/{tmp_path.name}",
    ]
    index = f"{tmp_path.parent.name}/{tmp_path.name}"  # with what lies beside it
    assert files.place(f"file://{tmp_path}") == f"file:///dev/conjure-build/2/{index}"
    assert files.place("file:///usr") == "file:///dev/conjure-build/3/usr"
    for same in ("tqdm", "https://host/x.whl", "-i https://host/", "--find-links /nowhere/at/all"):
        assert replace_path(same, files.place) == same
    assert [bound.source for bound in files.bound] == [wheel, tmp_path, tmp_path.parent, Path("/usr")]
    assert all(bound.read_only for bound in files.bound)


def test_packages_are_named_in_files_not_on_the_command_line(tmp_path):
    wheel = tmp_path / "x.whl"
    wheel.touch()
    files = _MountedFiles()
    wanted = choice(requirements="tqdm\n", pip=("y @ https://token@host/y.whl", str(wheel)))
    options = _pip_arguments(wanted, files, tmp_path)
    places = ["/dev/conjure-build/0/requirements.txt", "/dev/conjure-build/2/packages.txt"]
    assert options == ["--requirement", places[0], "--requirement", places[1]]
    assert [bound.source.name for bound in files.bound] == ["requirements.txt", "x.whl", "packages.txt"]
    lines = (tmp_path / "packages.txt").read_text().splitlines()
    assert lines == ["y @ https://token@host/y.whl", "/dev/conjure-build/1/x.whl"]
    assert _pip_arguments(choice(apt=("tree",)), files, tmp_path) == []


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["Reading", "E: no package a1", "E: no package a1", "E: none b1"], "no package a1; none b1"),
        (["dpkg: error in x (--configure):", " why", "E: dpkg"], "error in x (--configure); dpkg"),
        (["killed", ""], "killed"),
        ([], "it printed no message"),
    ],
)
def test_what_failed_in_the_image_is_one_sentence(lines, sentence):
    explain = _explanation("apt-get", ("E: ", "dpkg: error "))
    assert explain(lines) == f"apt-get failed in the image: {sentence}"
