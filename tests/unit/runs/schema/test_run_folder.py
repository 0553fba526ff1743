"""The names in a run's folder, which older and newer versions, and people's scripts, rely on."""

import pytest

from conjure.runs.schema.run_folder import PARTIAL_FILE, RunFolder


def test_the_names_are_those_of_earlier_versions(home):
    folder = RunFolder.of(home, 12)
    assert folder.path == home.run_folder(12)
    assert {
        part: getattr(folder, part).relative_to(folder.path).as_posix()
        for part in (
            "record", "lock", "log", "metrics", "columns", "work", "outputs", "manifest", "baseline",
            "container", "supervisor_log",
        )
    } == {
        "record": "run.json",
        "lock": "lock",
        "log": "log.jsonl",
        "metrics": "metrics.jsonl",
        "columns": "metrics.columns",
        "work": "work",
        "outputs": "outputs",
        "manifest": "manifest.json",
        "baseline": "before.json",
        "container": "container",
        "supervisor_log": "supervisor.log",
    }  # fmt: skip


def test_an_attempt_has_the_same_things_in_a_folder_of_its_own(home):
    folder = RunFolder.of(home, 12)
    assert folder.attempt(2).log == folder.path / "attempts" / "2" / "log.jsonl"


@pytest.mark.parametrize(
    ("name", "is_partial"),
    [
        (".run.json.ab12cd_9", True),
        (".metrics.columns.ab12cd_9", True),
        (".processes.json.new", True),
        ("run.json", False),
        (".log.jsonl.ab12cd_9", False),
        (".run.json.ab12cd_9x", False),
    ],
)
def test_what_was_left_unfinished_is_known_by_its_name(name, is_partial):
    assert (PARTIAL_FILE.fullmatch(name) is not None) == is_partial
