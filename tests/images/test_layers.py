"""Packages that are added to an image: its own apt and pip install them once, for all runs that ask."""

import json

import pytest

from conjure.runs.database.open_database import open_database
from conjure.runs.environments.containers import container_name
from conjure.runs.maintenance.pruning import prune
from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import is_running, nap, wait_until
from support.containers import SMALL, engine
from support.debian import import_debian, make_wheel
from support.pages import REPOSITORY

DEBIAN = "localhost/debian:1"
NAP = nap(650)
PACKAGES = {
    "words": {
        "files": {"usr/share/words.txt": "hello\n"},
        "postinst": 'echo "the proxy is $https_proxy"',
    },
    "greeting": {"files": {"usr/bin/greeting": "#!/bin/sh\ncat /usr/share/words.txt\n"}, "depends": "words"},
    "broken": {"postinst": "echo it breaks >&2; exit 3"},
    "slow": {"postinst": f"sleep {NAP}"},
}
GREET = "greeting; python3 -c 'import brew; print(brew.__version__)'"


@pytest.fixture(scope="session")
def debian(store):
    """An image of Debian with apt and pip."""
    root = REPOSITORY / ".venv" / "debian-root.tar"
    if not root.exists():
        pytest.fail(f"there is no {root} (make test-podman)")
    import_debian(store, DEBIAN, root, PACKAGES)
    return DEBIAN


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of wheels that this machine's pip is configured to take packages from."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "brew", "1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def image_digest(name):
    return "sha256:" + engine("image", "inspect", "--format", "{{.Id}}", name).removeprefix("sha256:")


def digests():
    """Of all images on this machine."""
    return set(engine("images", "--all", "--quiet", "--no-trunc").splitlines())


def log(run):
    """All that is in the log of a run, and what conjure says itself too."""
    return (run.home.run_folder(run.number) / "log.jsonl").read_text()


def test_packages_are_installed_once_and_the_command_has_them(client, debian, wheels):
    before = digests()
    run = client.run(GREET, image=debian, apt=["words", "greeting"], pip=["brew"]).wait(check=True)
    assert list(run.logs())[-2:] == ["hello", "1.0"]
    assert "Setting up greeting" in log(run)
    assert "Successfully installed brew" in log(run)
    had = run.record.environment
    assert had.base_image == image_digest(debian)
    assert digests() - before == {had.layer}
    assert had.packages["brew"] == "1.0"
    assert "pip" in had.packages
    assert had.resolved == ("brew",)
    again = client.run(GREET, image=debian, apt=["greeting", "words"], pip=["brew"]).wait(check=True)
    assert again.record.environment == had
    assert list(again.logs()) == ["hello", "1.0"]
    assert "Setting up" not in log(again)
    assert digests() - before == {had.layer}
    without = client.run("greeting", image=debian).wait()
    assert (without.record.ending.exit_code, without.record.environment.layer) == (127, None)


def test_a_rerun_has_the_same_layer_or_one_with_the_same_versions(client, debian, wheels):
    engine("tag", debian, "localhost/moving:2")
    run = client.run(GREET, image="localhost/moving:2", apt=["greeting"], pip=["brew"]).wait(check=True)
    engine("tag", SMALL, "localhost/moving:2")
    make_wheel(wheels, "brew", "2.0")
    again = run.rerun().wait(check=True)
    assert again.record.environment == run.record.environment
    engine("rmi", run.record.environment.layer)
    built = run.rerun().wait(check=True)
    assert list(built.logs())[-2:] == ["hello", "1.0"]
    assert built.record.environment.base_image == run.record.environment.base_image
    assert built.record.environment.layer != run.record.environment.layer
    newest = client.run(GREET, image=debian, apt=["greeting"], pip=["brew"]).wait(check=True)
    assert list(newest.logs())[-1] == "2.0"


def test_an_equal_run_is_found(client, debian):
    options = {"image": debian, "apt": ["words"], "idempotent": True}
    first = client.run("cp /usr/share/words.txt .", **options).wait(check=True)
    assert client.run("cp /usr/share/words.txt .", **options).number == first.number
    assert client.run("cp /usr/share/words.txt .", image=debian, idempotent=True).number != first.number


def test_requirements_and_wheels_of_ones_own_are_added(client, debian, wheels, folder):
    make_wheel(folder, "herb", "3.0")
    (folder / "requirements.txt").write_text("brew  # from the folder of wheels\n")
    command = "python3 -c 'import brew, herb; print(brew.__version__, herb.__version__)'"
    run = client.run(command, image=debian, pip=["./herb-3.0-py3-none-any.whl"], pip_req=["requirements.txt"])
    run.wait(check=True)
    assert list(run.logs())[-1] == "1.0 3.0"


def test_no_secret_and_nothing_of_this_machine_is_in_a_layer(client, debian, wheels, tmp_path, monkeypatch):
    secret = "s3cret-word"
    monkeypatch.setenv("https_proxy", f"http://me:{secret}@127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{secret}@127.0.0.1:9/simple")
    of_docker = tmp_path / "config.json"  # it gives these to every container
    of_docker.write_text(json.dumps({"proxies": {"default": {"ftpProxy": f"http://{secret}"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    run = client.run("ls /dev /", image=debian, apt=["words"], pip=["brew"]).wait(check=True)
    assert "the proxy is http://me:***@127.0.0.1:9" in log(run)
    layer = run.record.environment.layer
    inspected = engine("image", "inspect", layer) + engine("history", "--no-trunc", layer)
    assert secret not in inspected + log(run) + json.dumps(run.record.to_dict())
    config = json.loads(engine("image", "inspect", layer))[0]["Config"]
    variables = [each.partition("=") for each in config["Env"] or ()]
    assert {name for name, _, value in variables if value} <= {"PATH", "TERM", "container"}
    of_any_container = {"conjure-init", "conjure-stdout", "conjure-stderr"}
    assert {line for line in run.logs() if "conjure" in line} == of_any_container


@pytest.mark.parametrize(
    ("image", "packages", "message"),
    [
        (DEBIAN, {"apt": ["no-such"]}, "apt-get failed in the image: Unable to locate package no-such"),
        (DEBIAN, {"apt": ["broken"]}, "apt-get failed in the image: error processing package broken"),
        (DEBIAN, {"pip": ["no-such"]}, "pip failed in the image: Could not find a version that satisfies"),
        (SMALL, {"apt": ["words"]}, "the image has no apt-get: "),
        (
            SMALL,
            {"pip": ["brew"]},
            "the image has no pip to add Python packages with: ",
        ),
    ],
    ids=["no such Debian package", "broken Debian package", "no such Python package", "no apt-get", "no pip"],
)
def test_what_cannot_be_installed_fails_the_build(client, debian, wheels, image, packages, message):
    before = digests()
    run = client.run("true", image=image, **packages).wait()
    assert run.end_reason is EndReason.BUILD_FAILED
    assert run.record.ending.message.startswith(message)
    assert "\n" not in run.record.ending.message
    assert digests() == before


def test_what_a_failing_package_says_is_in_the_log(client, debian):
    run = client.run("true", image=debian, apt=["broken"]).wait()
    assert "it breaks" in log(run)


def test_a_build_that_is_stopped_leaves_nothing(client, debian):
    before = digests()
    run = client.run("true", image=debian, apt=["slow"])
    wait_until(lambda: is_running(NAP), "the package is installed")
    assert run.status is RunStatus.BUILDING
    assert engine("ps", "--format", "{{.Names}}") == container_name(client.home, run.number)
    assert run.stop().end_reason is EndReason.STOP_REQUESTED
    assert engine("ps", "--all", "--quiet") == ""
    assert not is_running(NAP)
    assert digests() == before
    assert _built(client.home) == set()


def _built(home):
    """What is in the folder of environments beside locks."""
    found = {path.name for path in home.environments.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith((".use", ".build"))}


def test_a_layer_that_no_run_needs_is_pruned(client, debian):
    run = client.run("true", image=debian, apt=["words"]).wait(check=True)
    layer, before = run.record.environment.layer, digests()
    with open_database(client.home) as store:
        assert prune(client.home, store).environments == 0
        freed = prune(client.home, store, everything=True)
    assert (freed.environments, freed.not_done) == (1, ())
    assert freed.size_bytes > 0
    assert before - digests() == {layer}
    assert image_digest(debian) == run.record.environment.base_image
