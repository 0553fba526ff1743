import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.errors import UsageError
from conjure.runs.schema.spec import (
    CodeChoice,
    ComputeRequest,
    EnvironmentChoice,
    Mount,
    RunSpec,
    current_folder,
    parse_assignment,
    part_in_words,
    split_withheld,
)


def spec(**given):
    return RunSpec(**{"command": ("true",), "folder": Path("/code"), **given})


FULL = spec(
    command=("python", "train.py", "--lr", ":lr:"),
    kind="finetune",
    code=CodeChoice(git_url="https://example.org/repo.git", git_ref="main"),
    environment=EnvironmentChoice("none", "3.12", ("tqdm", "regex==1"), "numpy\n"),
    variables={"A": "1"},
    mounts=(Mount("runs/2", "in"), Mount("uploads/x", "data/x", read_only=True)),
    resources=ComputeRequest(1.5, 1, 8 * 10**9),
    timeout_s=90.0,
    stop_conditions=("loss > 9",),
    output=("*.txt",),
    no_output=("*.tmp",),
    description="a try",
    labels=("sweep",),
    params={"lr": "0.1"},
    idempotent=True,
    distributed=2,
    nodes=3,
)


def test_it_survives_the_way_through_json():
    assert RunSpec.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL.stored()
    assert RunSpec.from_dict(json.loads(json.dumps(FULL.to_dict(secrets=True)))) == FULL


def test_keys_of_a_later_version_are_passed_over():
    stored = FULL.to_dict()
    stored["new"] = 1
    stored["code"]["new"] = 1
    stored["mounts"][0]["new"] = 1
    assert RunSpec.from_dict(stored) == FULL.stored()


def test_a_stored_spec_of_an_earlier_version_has_defaults():
    assert RunSpec.from_dict({"command": ["true"], "folder": "/code"}) == spec().stored()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/2/data.txt", Mount("runs/2/data.txt", "data.txt")),
        ("runs/2:in", Mount("runs/2", "in")),
        ("runs/2/:ro", Mount("runs/2/", "2", read_only=True)),
        ("uploads/a b:x/y:ro", Mount("uploads/a b", "x/y", read_only=True)),
        ("runs/2:./in//deep/", Mount("runs/2", "in/deep")),
        ("link:ro:ro", Mount("link", "ro", read_only=True)),
        ("ro", Mount("ro", "ro")),
    ],
)
def test_mounts(text, expected):
    assert Mount.parse(text) == expected


@pytest.mark.parametrize(
    ("resource", "absolute"),
    [
        ("./a b.csv", "/code/data/a b.csv"),
        ("../a.csv", "/code/data/../a.csv"),
        ("/a.csv", "/a.csv"),
        ("~/a.csv", "/home/me/a.csv"),
        ("uploads/a", "uploads/a"),
        ("runs/1/a", "runs/1/a"),
    ],
)
def test_an_absolute_mount_is_the_same_in_every_folder(monkeypatch, resource, absolute):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "getcwd", lambda: "/code/data")
    assert Mount(resource, "data", read_only=True).absolute() == Mount(absolute, "data", read_only=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no resource"),
        (":in", "has no resource"),
        ("//:in", "has no resource"),
        ("runs/2:a:b", "too many colons"),
        ("s3://bucket/x:y", "too many colons"),
        ("runs/2:/data", "absolute path"),
        ("runs/2:..", "not a path inside"),
        ("runs/2:../x", "not a path inside"),
        ("runs/2:a/../../x", "not a path inside"),
        ("runs/2:.", "not a path inside"),
        ("runs/2:", "not a path inside"),
        ("..", "not a path inside"),
    ],
)
def test_bad_mounts(text, why):
    with pytest.raises(UsageError, match=why):
        Mount.parse(text)


def test_all_faults_are_reported_at_once():
    with pytest.raises(UsageError) as caught:
        spec(
            command=("",),
            code=CodeChoice(commit="x", committed=True, git_ref="main"),
            environment=EnvironmentChoice("best", "four"),
            resources=ComputeRequest(cpus=0, gpus=-1),
            mounts=(Mount("runs/1", "in"), Mount("runs/2", "in"), Mount("runs/3", "in/deep")),
            labels=(" x",),
            params={"1x": ""},
            variables={"A-B": ""},
            timeout_s=0,
            stop_conditions=("loss == 3",),
        )
    message = str(caught.value)
    for fault in (
        "the command is empty",
        "commit and committed cannot be combined",
        "git_ref needs git_url",
        "base='best' must be current or none",
        "python='four'",
        "cpus must be above 0 and below 1e+06; 0 is not",
        "gpus must be above 0 and below 1e+06; -1 is not",
        "two mounts have the same path, 'in'",
        "two mounts have the same path, 'in/deep'",
        "label ' x'",
        "params '1x'",
        "env 'A-B'",
        "a timeout must be above 0",
        "stop condition 'loss == 3'",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"command": ()}, "the command is empty"),
        ({"command": ("echo", "a\0b")}, "the command contains a NUL byte"),
        ({"variables": {"A": "a\0b"}}, "env 'A' is not a variable's name"),
        ({"environment": EnvironmentChoice(pip=(" ",))}, "pip=' ' is not a package"),
        ({"network": True}, "network needs sandbox"),
        ({"retry": -1}, "retry=-1 must be between 0 and 1000"),
        ({"retry": 1001}, "retry=1001 must be between 0 and 1000"),
        ({"retry": 1, "retry_on": "always"}, "retry_on='always' must be interrupted or failed"),
        ({"retry_on": "failed"}, "retry_on needs retry"),
        ({"project": " jokes"}, "project ' jokes' is not a name"),
        ({"project": "x" * 81}, "is not a name: 1 to 80 printable characters"),
        ({"labels": ("a\tb",)}, "is not a name"),
        ({"labels": (" ",)}, "is not a name"),
    ],
)
def test_what_makes_no_sense_is_refused(given, why):
    with pytest.raises(UsageError, match=why):
        spec(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"sandbox": True},
        {"sandbox": True, "network": True},
        {"retry": 1000},
        {"retry": 1, "retry_on": "failed"},
        {"project": "x" * 80, "labels": ("a b", "é")},
        {"code": CodeChoice(commit="v1.0")},
        {"code": CodeChoice(committed=True)},
        {"distributed": 1024, "nodes": 1024},
    ],
)
def test_what_makes_sense_is_kept(given):
    assert RunSpec.from_dict(spec(**given).to_dict()) == spec(**given).stored()


@pytest.mark.parametrize("value", ["-x", ""])
def test_names_that_git_would_take_for_options_are_refused(value):
    with pytest.raises(UsageError, match="is not a valid git reference"):
        spec(code=CodeChoice(commit=value))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"environment": {"base": "none"}}, "image and base cannot be combined: the image has its own"),
        ({"environment": {"python": "3.12"}}, "image and python cannot be combined"),
        ({"environment": {"image": "-v"}}, "image -v is not the name of an image|image='-v' is not"),
        ({"environment": {"image": "a b"}}, "is not the name of an image"),
        ({"sandbox": True}, "image and sandbox cannot be combined: a container is not a sandbox"),
        ({"resources": ComputeRequest(gpus=1)}, "image and gpus cannot be combined"),
    ],
)
def test_what_cannot_be_had_in_a_container_is_refused(options, why):
    environment = EnvironmentChoice(**{"image": "docker.io/x/y:1@sha256:0", **options.pop("environment", {})})
    with pytest.raises(UsageError, match=why):
        spec(environment=environment, **options)


NO_DEBIAN_PACKAGE = ["", "a b", "-y", "tree-", "tree;ls", "$(ls)", "Tree", "a", "../x.deb", "*", "x=1 2"]
NO_PYTHON_PACKAGE = ["two words", "$(ls)", "a&b", "`ls`", "a|b", "'x'"]


@pytest.mark.parametrize("name", NO_DEBIAN_PACKAGE)
def test_what_is_no_debian_package_is_refused(name):
    with pytest.raises(UsageError, match="is not the name of a Debian package, such as tree"):
        spec(environment=EnvironmentChoice(image="x", apt=("tree", name)))


@pytest.mark.parametrize("name", ["tree", "g++", "g++=4:12.2.0-3", "libc6:arm64", "git/bookworm-backports"])
def test_what_apt_get_takes_can_be_added_to_an_image(name):
    made = spec(environment=EnvironmentChoice(image="x", apt=(name,)))
    assert RunSpec.from_dict(made.to_dict()).environment == made.environment


@pytest.mark.parametrize("name", ["-r", *NO_PYTHON_PACKAGE])
def test_what_is_no_python_package_is_not_added_to_an_image(name):
    with pytest.raises(UsageError, match="is not a package"):
        spec(environment=EnvironmentChoice(image="x", pip=("tqdm", name)))


@pytest.mark.parametrize(
    "name",
    ["tqdm", "a[b,c]>=1,<2", "tqdm ; python_version < '4'", "x @ https://h/x.whl", "/w/x.whl[y]", "***"],
)
def test_what_pip_takes_can_be_added_to_an_image(name):
    assert spec(environment=EnvironmentChoice(image="x", pip=(name,))).environment.pip == (name,)


@pytest.mark.parametrize("options", [{}, {"base": "none"}, {"pip": ("tqdm",)}])
def test_debian_packages_without_an_image_are_refused_with_what_to_type(options):
    with pytest.raises(UsageError, match=r"^apt needs image, as in image='docker\.io/library/debian:12': "):
        spec(environment=EnvironmentChoice(apt=("tree",), **options))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"distributed": 0}, "distributed=0 must be between 1 and 1024"),
        ({"distributed": 2, "nodes": 0}, "nodes=0 must be between 1 and 1024"),
        ({"nodes": 2}, "nodes=2 needs distributed='N': the processes on each node"),
        ({"distributed": 2, "sandbox": True}, "distributed and sandbox cannot be combined"),
        ({"distributed": 2, "environment": EnvironmentChoice(image="x")}, "distributed and image cannot be"),
    ],
)
def test_what_several_processes_cannot_have_is_refused(options, why):
    with pytest.raises(UsageError, match=why):
        spec(**options)


def test_a_command_is_carried_out_on_one_node_unless_told():
    assert (spec().node_count, FULL.node_count) == (1, 3)


@pytest.mark.parametrize(
    ("environment", "python_packages", "packages"),
    [
        (EnvironmentChoice("none", "3.12"), False, False),
        (EnvironmentChoice(requirements=" \n"), False, False),
        (EnvironmentChoice(requirements="tqdm\n"), True, True),
        (EnvironmentChoice(pip=("tqdm",)), True, True),
        (EnvironmentChoice(image="x", apt=("tree",)), False, True),
    ],
)
def test_what_is_added_to_an_environment(environment, python_packages, packages):
    assert (environment.adds_python_packages, environment.adds_packages) == (python_packages, packages)


def test_any_need_is_a_request():
    assert not ComputeRequest().asks
    assert all(
        need.asks for need in (ComputeRequest(1.0), ComputeRequest(None, 1), ComputeRequest(None, None, 1))
    )


def test_the_command_that_is_executed_has_the_values_of_its_params():
    assert FULL.filled_command == ("python", "train.py", "--lr", "0.1")


def test_the_command_as_one_line():
    assert spec(command=("echo  a; b",)).command_text == "echo  a; b"
    assert spec(command=("echo", "a b", "it's")).command_text == "echo 'a b' 'it'\"'\"'s'"


def test_nothing_secret_is_stored():
    secret = spec(
        command=("train --api-token hunter2; curl https://me:hunter2@example.org",),
        code=CodeChoice(git_url="https://me:hunter2@example.org/repo.git"),
        environment=EnvironmentChoice(
            pip=("x @ git+https://hunter2@example.org/x",),
            requirements="--extra-index-url https://u:hunter2@h\n",
        ),
        variables={"API_KEY": "hunter2", "DEPTH": "3"},
        params={"password": "hunter2", "lr": "1"},
    )
    assert "hunter2" not in json.dumps(secret.to_dict())
    assert secret.stored().variables == {"API_KEY": "***", "DEPTH": "3"}
    assert sorted(secret.stored().withheld) == [
        "code.git_url",
        "command",
        "environment.pip",
        "environment.requirements",
        "params.password",
        "variables.API_KEY",
    ]
    assert secret.stored().stored() == secret.stored()
    assert RunSpec.from_dict(secret.to_dict(secrets=True)) == secret


def test_a_secret_is_covered_in_every_part():
    secret = "correct-horse-battery"
    stored = spec(
        command=("touch", f"{secret}.txt"),
        variables={"CREDS": secret, "TEXT": f"a {secret}"},
        output=(f"{secret}*",),
        description=f"with {secret} and https://me:pw@host",
        labels=(secret,),
    ).stored()
    assert secret not in json.dumps(stored.to_dict(secrets=True))
    assert stored.description == "with *** and https://me:***@host"
    assert stored.known_globs().output == ()


def test_a_param_that_stands_where_a_secret_does_is_one():
    stored = spec(command=("curl -u me::word: h",), params={"word": "xyz", "n": "3"}).stored()
    assert (stored.params, stored.withheld) == ({"word": "***", "n": "3"}, ("params.word",))


def test_the_name_of_a_mount_is_no_secret_in_the_command():
    name = "ghp_" + "a1B2" * 9
    stored = spec(command=("cat", name), mounts=(Mount(f"./{name}", name),)).stored()
    assert (stored.command, stored.withheld) == (("cat", name), ())


def test_what_is_not_secret_is_stored_as_it_was_given():
    given = spec(
        command=("python gen.py --stop_token '<|endoftext|>' --text-key body; echo '***'",),
        variables={"SORT_KEY": "name"},
        params={"pad_token": "PAD"},
    )
    assert given.stored() == replace(given, withheld=())


def test_what_an_earlier_version_withheld_is_known_by_its_stars():
    old = {"command": ["x --token ***"], "folder": "/", "variables": {"KEY": "***", "A": "b"}}
    assert RunSpec.from_dict(old).withheld == ("variables.KEY", "command")
    older = {
        "command": ["x"],
        "folder": "/",
        "params": {"password": "***"},
        "environment": {"pip": ["tqdm"], "requirements": "--index-url https://u:***@h"},
    }
    assert RunSpec.from_dict(older).withheld == ("params.password", "environment.requirements")


def test_what_was_withheld_is_told_as_it_is_written_on_the_command_line():
    parts = ["command", "variables.KEY", "params.password", "environment.pip", "environment.requirements"]
    names, others = split_withheld(parts)
    assert names == ["KEY"]
    assert others == [part for part in parts if part != "variables.KEY"]
    every = [*others, "output", "no_output", "checkpoint"]
    assert [str(UsageError(part_in_words(part))) for part in every] == [
        "its command",
        "params password",
        "pip",
        "pip_req",
        "output",
        "no_output",
        "checkpoint",
    ]


def test_a_folder_that_is_gone_is_said_to_be(folder):
    assert current_folder() == folder
    folder.rmdir()
    with pytest.raises(UsageError, match="the current folder no longer exists"):
        current_folder()


def test_only_the_first_equals_sign_divides():
    assert parse_assignment("params", "x=a=b") == ("x", "a=b")
    with pytest.raises(UsageError, match="write params x=VALUE"):
        parse_assignment("params", "x")


@pytest.mark.parametrize(
    "given",
    [
        {"resources": ComputeRequest(cpus=math.nan)},
        {"resources": ComputeRequest(cpus=math.inf)},
        {"resources": ComputeRequest(gpus=2**63)},
        {"resources": ComputeRequest(memory_bytes=2**63)},
        {"resources": ComputeRequest(cpus=-0.0)},
        {"timeout_s": math.nan},
        {"timeout_s": math.inf},
        {"timeout_s": 1e300},
    ],
)
def test_numbers_have_bounds(given):
    with pytest.raises(UsageError, match=r"is not$"):
        spec(**given)


@pytest.mark.parametrize(
    ("text", "resource", "target"),
    [
        (r"runs/1/a\:b.txt", "runs/1/a:b.txt", "a:b.txt"),
        (r"runs/1/a\:b.txt:c\:d", "runs/1/a:b.txt", "c:d"),
        (r"./a\:b:ro", "./a:b", "a:b"),
        (r"runs/1/x\:ro", "runs/1/x:ro", "x:ro"),
    ],
)
def test_a_colon_in_a_name(text, resource, target):
    mount = Mount.parse(text)
    assert (mount.resource, mount.target) == (resource, target)
    assert Mount.of("runs/1/a:b", "c:ro") == Mount("runs/1/a:b", "c", read_only=True)


def test_a_pattern_of_outputs_that_is_not_known_any_more_drops_nothing():
    asked = spec(output=("***",), no_output=("*.tmp", "***"))
    assert asked.known_globs() == asked
    stored = replace(asked, withheld=("no_output", "output"))
    assert (stored.known_globs().output, stored.known_globs().no_output) == ((), ("*.tmp",))
