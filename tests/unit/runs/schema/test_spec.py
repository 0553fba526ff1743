import json
from pathlib import Path

import pytest

from conjure.errors import UsageError
from conjure.runs.schema.spec import (
    CodeChoice,
    ComputeRequest,
    EnvironmentChoice,
    Mount,
    RunSpec,
    parse_assignment,
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
)


def test_it_survives_the_way_through_json():
    assert RunSpec.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


def test_keys_of_a_later_version_are_passed_over():
    stored = FULL.to_dict()
    stored["new"] = 1
    stored["code"]["new"] = 1
    stored["mounts"][0]["new"] = 1
    assert RunSpec.from_dict(stored) == FULL


def test_a_stored_spec_of_an_earlier_version_has_defaults():
    assert RunSpec.from_dict({"command": ["true"], "folder": "/code"}) == spec()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/2/data.txt", Mount("runs/2/data.txt", "data.txt")),
        ("runs/2:in", Mount("runs/2", "in")),
        ("runs/2/:ro", Mount("runs/2/", "2", read_only=True)),
        ("uploads/a b:x/y:ro", Mount("uploads/a b", "x/y", read_only=True)),
        ("runs/2:./in//deep/", Mount("runs/2", "in/deep")),
        ("link:ro:ro", Mount("link", "ro", read_only=True)),
    ],
)
def test_mounts(text, expected):
    assert Mount.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no resource"),
        (":in", "names no resource"),
        ("runs/2:a:b", "too many colons"),
        ("s3://bucket/x:y", "too many colons"),
        ("runs/2:/data", "absolute path"),
        ("runs/2:..", "not a place inside"),
        ("runs/2:../x", "not a place inside"),
        ("runs/2:a/../../x", "not a place inside"),
        ("runs/2:.", "not a place inside"),
        ("runs/2:", "not a place inside"),
        ("..", "not a place inside"),
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
        "--commit and --committed exclude one another",
        "--git-ref needs --git-url",
        "--base 'best' is neither current nor none",
        "--python 'four'",
        "--cpus must be above 0; 0 is not",
        "--gpus must be above 0; -1 is not",
        "two mounts want the same place, 'in'",
        "two mounts want the same place, 'in/deep'",
        "label ' x'",
        "--param '1x'",
        "--env 'A-B'",
        "a timeout must be longer than nothing",
        "stop condition 'loss == 3'",
    ):
        assert fault in message


@pytest.mark.parametrize("value", ["-x", ""])
def test_names_that_git_would_take_for_options_are_refused(value):
    with pytest.raises(UsageError, match="is not a name that git knows"):
        spec(code=CodeChoice(commit=value))


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
    assert sorted(secret.stored().withheld()) == ["API_KEY", "password", "the command or its packages"]
    assert RunSpec.from_dict(secret.to_dict(secrets=True)) == secret


def test_only_the_first_equals_sign_divides():
    assert parse_assignment("--param", "x=a=b") == ("x", "a=b")
    with pytest.raises(UsageError, match="write --param x=VALUE"):
        parse_assignment("--param", "x")
