import json
from dataclasses import replace

from conjure.runs.code.snapshot import snapshot
from conjure.runs.inspect.run_diff import Change, FileChange, compare
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts, RunRecord
from conjure.runs.schema.spec import ComputeRequest, EnvironmentChoice, RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress
from conjure.runs.telemetry.metrics import Summary
from support.repositories import write_files


def record(tmp_path, number=1, **given):
    spec = RunSpec(command=(given.pop("command", "python train.py"),), folder=tmp_path, **given)
    return RunRecord(number, spec)


def sections(home, before, after, metrics_before=None, metrics_after=None):
    found = compare(home, before, after, metrics_before or {}, metrics_after or {})
    return {name: list(changes) for name, changes in found.sections.items() if changes}


def taken(home, folder, number, files):
    write_files(folder, files)
    found = snapshot(home, folder, number=number)
    return CodeFacts(**{name: getattr(found, name) for name in CodeFacts.__dataclass_fields__})


def test_equal_runs_do_not_differ(home, tmp_path):
    before = record(tmp_path, params={"lr": "1"}, labels=("a",))
    after = replace(before, number=2, facts=RunProgress(before.facts.entered), total_s=4.0)
    assert compare(home, before, after, {}, {}).is_empty


def test_what_was_asked(home, tmp_path):
    before = record(
        tmp_path, params={"lr": "1", "old": "x"}, variables={"A": "1"}, resources=ComputeRequest(cpus=1)
    )
    after = record(
        tmp_path,
        2,
        command="python other.py",
        params={"lr": "2"},
        variables={"A": "1", "API_TOKEN": "***"},
        environment=EnvironmentChoice(pip=("six",)),
        timeout_s=60.0,
    )
    assert sections(home, before, after) == {
        "settings": [
            Change("command", "python train.py", "python other.py"),
            Change("cpus", 1, None),
            Change("pip", None, ["six"]),
            Change("timeout_s", None, 60.0),
        ],
        "params": [Change("lr", "1", "2"), Change("old", "x", None)],
        "variables": [Change("API_TOKEN", None, "***")],
    }


def test_what_they_ran_with(home, tmp_path):
    environment = EnvironmentFacts("a", "/python", {"Ruff_Like": "1", "torch": "2.0", "gone": "1"})
    mounts = (MountFacts("runs/1/x", "x", read_only=False, source="runs/1/x"),)
    before = replace(record(tmp_path), environment=environment, mounts=mounts)
    after = replace(
        record(tmp_path, 2),
        environment=EnvironmentFacts("b", "/python", {"ruff-like": "1", "torch": "2.1", "new": "3"}),
        mounts=(replace(mounts[0], read_only=True),),
    )
    assert sections(home, before, after) == {
        "mounts": [Change("x", "runs/1/x", "runs/1/x:ro")],
        "packages": [Change("gone", "1", None), Change("new", None, "3"), Change("torch", "2.0", "2.1")],
    }


def test_what_came_out(home, tmp_path):
    def ended(run, ending, files):
        return replace(run, facts=RunProgress({}, 1.0, ending), outputs=OutputFacts(files, 10))

    before = ended(record(tmp_path), Ending(EndReason.COMPLETED, 0), 1)
    after = ended(record(tmp_path, 2), Ending(EndReason.NONZERO_EXIT, 3), 2)
    loss = {"loss": Summary("loss", 9, 8, 0.5, 0.1, 1.0)}
    assert sections(home, before, after, loss, {"loss": Summary("loss", 1, 0, 0.25, 0.25, 0.25)}) == {
        "result": [
            Change("exit_code", 0, 3),
            Change("output_files", 1, 2),
            Change("status", "complete", "failed"),
        ],
        "metrics": [Change("loss", 0.5, 0.25)],
    }


def test_code_file_by_file(home, tmp_path):
    text = "".join(f"line {number}\n" for number in range(30))
    one, two = tmp_path / "one", tmp_path / "two"
    first = taken(
        home, one, 1, {"same": "s", "changed": "a\nb\n", "gone": "g\n", "old name": text, "data": b"\0\1"}
    )
    second = taken(
        home, two, 2, {"same": "s", "changed": "a\nc\nd\n", "new name": text, "data": b"\0\2", "é\n": "x"}
    )
    before, after = replace(record(tmp_path), code=first), replace(record(tmp_path, 2), code=second)
    found = compare(home, before, after, {}, {})
    assert set(found.code.files) == {
        FileChange("changed", "changed", 2, 1, "modified"),
        FileChange("data", "data", None, None, "modified"),
        FileChange("gone", "gone", 0, 1, "deleted"),
        FileChange("new name", "old name", 0, 0, "renamed"),
        FileChange("é\n", "é\n", 1, 0, "added"),
    }
    assert found.code.facts == (Change("root_name", "one", "two"),)
    assert found.code.only_in is None
    assert not found.is_empty
    json.dumps(found.to_dict())


def test_code_against_none(home, tmp_path):
    code = taken(home, tmp_path / "one", 1, {"a": "1\n"})
    before = replace(record(tmp_path), code=CodeFacts(tree=""))
    after = replace(record(tmp_path, 2), code=replace(code, root_name=""))
    found = compare(home, before, after, {}, {}).code
    assert (found.files, found.only_in) == ((FileChange("a", "a", 1, 0, "added"),), 2)
    found = compare(home, after, before, {}, {}).code
    assert (found.files, found.only_in) == ((FileChange("a", "a", 0, 1, "deleted"),), 2)


def test_code_that_is_no_longer_kept(home, tmp_path):
    code = taken(home, tmp_path / "one", 1, {"a": "1\n"})
    before = replace(record(tmp_path), code=code)
    after = replace(record(tmp_path, 2), code=replace(code, tree="0" * 39 + "1"))
    found = compare(home, before, after, {}, {})
    assert found.code.unknown.startswith("the files are no longer stored")
    unrecorded = compare(home, before, record(tmp_path, 2), {}, {})
    assert unrecorded.code.unknown == "the code of run 2 was not recorded"
    assert compare(home, record(tmp_path), record(tmp_path, 2), {}, {}).is_empty
