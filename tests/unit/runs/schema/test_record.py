import json
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.text import valid_utf8
from conjure.runs.database.record_files import record_from_dict, record_to_dict
from conjure.runs.database.rows import to_columns, to_record
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, OutputFacts, RunRecord
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress, RunStatus

FULL = RunRecord(
    number=7,
    spec=RunSpec(command=("echo", "a b"), folder=Path("/code"), labels=("x",), params={"lr": "1"}),
    facts=RunProgress(
        {RunStatus.REQUESTED: 1795500000.123456, RunStatus.QUEUED: 1795500001.5},
        1795500002.0,
        Ending(EndReason.STOP_REQUESTED, signal=15, message="why"),
    ),
    code=CodeFacts("tree", "sub", "repo", "commit", "main", dirty=True, size_bytes=9, warnings=("w",)),
    environment=EnvironmentFacts("digest", "/usr/bin/python", {"tqdm": "4.0"}),
    mounts=(MountFacts("best", "in", read_only=True, source="runs/2/x"),),
    outputs=OutputFacts(3, 99),
    owner=Owner("host", "boot", 5, "77"),
    command_s=1.5,
    total_s=2.5,
    gpu_ids=(0, 2),
    end_request="stop",
    parent=3,
    rerun_of=4,
    usage=Usage(1.0, 2, 3, 4, 5),
    archived_at=1795500009.0,
    identity="same",
)


STORED = replace(FULL, spec=FULL.spec.stored())
BARE = RunRecord(1, RunSpec(command=("true",), folder=Path("/code")).stored())


@pytest.mark.parametrize("record", [STORED, BARE], ids=["full", "only asked for"])
def test_it_survives_the_way_through_its_file_and_through_a_row(record):
    assert record_from_dict(json.loads(json.dumps(record_to_dict(record)))) == record
    assert to_record({**to_columns(record), "labels": "\n".join(record.labels)}) == record


def test_json_leads_with_what_programs_look_for():
    shown = FULL.to_dict()
    assert list(shown)[:7] == ["number", "status", "end_reason", "exit_code", "signal", "message", "command"]
    assert shown["status"] == "stopped"
    assert shown["end_reason"] == "stop_requested"
    assert shown["command"] == "echo 'a b'"
    assert shown["requested_at"] == "2026-11-24T06:00:00.123456Z"


def test_unknown_keys_are_passed_over():
    stored = record_to_dict(FULL)
    stored["later"] = 1
    stored["code"]["later"] = 1
    assert record_from_dict(stored) == STORED


def test_the_file_says_its_format():
    assert record_to_dict(FULL)["format"] == 1


def test_a_mounts_run_is_known_by_its_source():
    def source_run(source):
        return MountFacts("x", "x", read_only=False, source=source).source_run

    assert source_run("runs/12/a/b") == 12
    assert source_run("runs/12") == 12
    assert source_run("uploads/12/a") is None
    assert source_run("datasets/files/ab/x") is None


def test_names_that_are_not_utf8_can_be_shown():
    assert valid_utf8("caf\udce9 é") == "caf\\xe9 é"
