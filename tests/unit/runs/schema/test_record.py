import json
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.text import valid_utf8
from conjure.runs.database.record_files import record_from_dict, record_to_dict
from conjure.runs.database.rows import to_columns, to_record
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    AttemptFacts,
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
)
from conjure.runs.schema.spec import Mount, RunSpec
from conjure.runs.schema.status import Ending, EndReason, RunProgress, RunStatus

FULL = RunRecord(
    number=7,
    spec=RunSpec(
        command=("echo", "a b"), folder=Path("/code"), labels=("x",), project="jokes", params={"lr": "1"}
    ),
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
    attempts=(AttemptFacts(1, "gpu-2", 1795500000.5, 1795500001.0, "supervisor_died", signal=9),),
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


def test_json_says_what_was_asked_and_what_happened():
    shown = FULL.to_dict()
    assert (shown["project"], shown["labels"], shown["params"]) == ("jokes", ["x"], {"lr": "1"})
    assert (FULL.project, FULL.labels) == ("jokes", ("x",))
    assert (shown["signal"], shown["message"]) == (15, "why")
    assert shown["archived_at"] == "2026-11-24T06:00:09.000000Z"
    assert shown["mounts"] == [{"resource": "best", "target": "in", "read_only": True, "source": "runs/2/x"}]
    assert (shown["code"]["commit"], shown["usage"]["peak_memory_bytes"]) == ("commit", 2)
    (attempt,) = shown["attempts"]
    assert (attempt["number"], attempt["end_reason"], attempt["signal"]) == (1, "supervisor_died", 9)
    assert (attempt["running_at"], attempt["ended_at"]) == (
        "2026-11-24T06:00:00.500000Z",
        "2026-11-24T06:00:01.000000Z",
    )


def test_json_of_what_has_not_happened_is_null():
    shown = BARE.to_dict()
    for part in ("end_reason", "exit_code", "ended_at", "queued_at", "code", "environment", "usage", "owner"):
        assert shown[part] is None


def test_a_run_waits_in_a_queue_until_it_has_a_supervisor_or_has_ended():
    waiting = replace(BARE, owner=Owner.queue("m1", "boot"))
    assert waiting.waits_in_queue
    assert not BARE.waits_in_queue
    assert not replace(BARE, owner=Owner("m1", "boot", 5, "77")).waits_in_queue
    assert not replace(waiting, facts=RunProgress(ending=Ending(EndReason.STOP_REQUESTED))).waits_in_queue


def test_a_run_is_unsaved_once_its_command_was_started_in_any_attempt():
    started = RunProgress({RunStatus.REQUESTED: 1.0, RunStatus.RUNNING: 2.0})
    before, after = (AttemptFacts(1, "m1", at, 3.0, "signalled", signal=9) for at in (None, 2.0))
    assert replace(BARE, facts=started).is_unsaved
    assert replace(BARE, attempts=(before, after)).is_unsaved
    assert not BARE.is_unsaved
    assert not replace(BARE, attempts=(before,)).is_unsaved
    assert not replace(BARE, facts=started, outputs=OutputFacts()).is_unsaved


def test_pinned_mounts_are_what_the_links_led_to():
    assert FULL.pinned_mounts == (Mount("runs/2/x", "in", read_only=True),)


def test_how_it_ended_and_when_it_was_asked_for():
    assert (FULL.ending, FULL.requested_at) == (FULL.facts.ending, 1795500000.123456)
    assert (BARE.ending, BARE.requested_at) == (None, 0.0)


def test_the_image_that_was_asked_for_is_the_one_that_packages_were_added_to():
    assert EnvironmentFacts("sha256:0", "").image_digest == "sha256:0"
    assert EnvironmentFacts("sha256:0", "", base_image="sha256:1").image_digest == "sha256:1"
