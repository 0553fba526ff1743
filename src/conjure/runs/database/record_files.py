"""What lies beside the database as files: each ``run.json``, links, sweeps, and the run folders themselves.

Main entries: `read_record`, `write_record`, `read_links`, `read_sweep`, `folder_numbers`. Invariant: the
files alone are enough to rebuild the database: ``record_from_dict(record_to_dict(record))`` equals the
record.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conjure.core.dir_fd import Folder
from conjure.core.files import parse_json, write_atomically
from conjure.core.home import Home
from conjure.core.text import to_iso, valid_utf8
from conjure.errors import ConjureError
from conjure.runs.database.base import Link
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    AttemptFacts,
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
    ending_to_dict,
    fact_to_dict,
    facts_from_dict,
    from_iso,
    read_fact,
    times_to_dict,
)
from conjure.runs.schema.run_folder import RECORD_FILE, REMOVED, RunFolder
from conjure.runs.schema.spec import RunSpec

RECORD_FORMAT = 1  # raised when a reader of before could take the file for something else
_LINKS_FORMAT = 1
_SWEEP_FORMAT = 1
# Numbers are given one by one, so a larger one is no run's; it would be the end of all numbers after it.
_RUN_FOLDER = re.compile(r"[1-9][0-9]{0,8}")
_SWEEP_FILE = re.compile(r"([1-9][0-9]{0,8})\.(?:json|lock|log)")


def record_to_dict(record: RunRecord) -> dict[str, Any]:
    """A record as ``run.json`` holds it; status, command and params are there for other programs."""
    spec = record.spec.stored()
    stored = spec.to_dict()
    return {
        "format": RECORD_FORMAT,
        "number": record.number,
        "status": str(record.status),
        **ending_to_dict(record.ending),
        "command": valid_utf8(spec.command_text),
        "description": stored["description"],
        "labels": stored["labels"],
        "project": stored["project"],
        "params": stored["params"],
        **times_to_dict(record.facts),
        "ended_at": to_iso(record.facts.ended_at),
        "command_s": record.command_s,
        "total_s": record.total_s,
        "code": fact_to_dict(record.code),
        "environment": fact_to_dict(record.environment),
        "mounts": [asdict(mount) for mount in record.mounts],
        "outputs": fact_to_dict(record.outputs),
        "usage": fact_to_dict(record.usage),
        "gpu_ids": list(record.gpu_ids),
        "parent": record.parent,
        "rerun_of": record.rerun_of,
        "archived_at": to_iso(record.archived_at),
        "end_request": record.end_request,
        "identity": record.identity,
        "owner": fact_to_dict(record.owner),
        "attempts": [asdict(attempt) for attempt in record.attempts],
        "retry_at": record.retry_at,
        "spec": stored,
    }


def record_from_dict(stored: Mapping[str, Any]) -> RunRecord:
    """The record that `record_to_dict` wrote, of this version or another; unknown keys are passed over.

    Raises:
        KeyError, TypeError, ValueError: It is not such a record.
    """
    return RunRecord(
        number=int(stored["number"]),
        spec=RunSpec.from_dict(stored["spec"]),
        facts=facts_from_dict(stored),
        code=read_fact(CodeFacts, stored.get("code")),
        environment=read_fact(EnvironmentFacts, stored.get("environment")),
        mounts=tuple(read_fact(MountFacts, mount) for mount in stored.get("mounts") or ()),
        outputs=read_fact(OutputFacts, stored.get("outputs")),
        owner=read_fact(Owner, stored.get("owner")),
        command_s=stored.get("command_s"),
        total_s=stored.get("total_s"),
        gpu_ids=tuple(stored.get("gpu_ids") or ()),
        end_request=stored.get("end_request"),
        parent=stored.get("parent"),
        rerun_of=stored.get("rerun_of"),
        usage=read_fact(Usage, stored.get("usage")),
        archived_at=from_iso(stored.get("archived_at")),
        identity=stored.get("identity"),
        attempts=tuple(read_fact(AttemptFacts, attempt) for attempt in stored.get("attempts") or ()),
        retry_at=stored.get("retry_at"),
    )


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder, or None if there is none that can be read."""
    try:
        return record_from_dict(parse_json(RunFolder(folder).record.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, ConjureError):
        return None


def write_record(home: Home, record: RunRecord) -> None:
    """Bring a record's file up to date.

    Where somebody removed the folder by hand, or a link took its place, nothing is written.

    Raises:
        OSError: It cannot be written.
    """
    try:
        folder = Folder.open(home.run_folder(record.number))
    except (NotADirectoryError, FileNotFoundError):
        return
    with folder, suppress(FileNotFoundError):  # it was removed meanwhile
        text = json.dumps(record_to_dict(record), indent=1) + "\n"
        write_atomically(folder.here / RECORD_FILE, text, mode=0o600)


def read_links(home: Home) -> list[Link] | None:
    """The links in their file, or None if there is none that can be read."""
    try:
        stored = parse_json(home.links_file.read_bytes())["links"]
        return [Link(*(str(link[name]) for name in ("name", "resource", "created_at"))) for link in stored]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_links(home: Home, links: Iterable[Link]) -> None:
    """Let a file say what the links are, so that they outlive the database.

    Raises:
        OSError: It cannot be written.
    """
    content = {"format": _LINKS_FORMAT, "links": [link._asdict() for link in links]}
    write_atomically(home.links_file, json.dumps(content, indent=1) + "\n", mode=0o600)


def read_sweep(home: Home, number: int) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]] | None:
    """A sweep and its trials in their file, or None if there is none that can be read."""
    try:
        stored = parse_json(home.sweep_file(number).read_bytes())
        return (stored["sweep"], stored["trials"]) if stored["sweep"]["number"] == number else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_sweep(home: Home, sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
    """Let a file say what is known of a sweep, so that it outlives the database.

    Raises:
        OSError: It cannot be written.
    """
    home.sweeps.mkdir(mode=0o700, exist_ok=True)
    content = {"format": _SWEEP_FORMAT, "sweep": sweep, "trials": trials}
    write_atomically(home.sweep_file(sweep["number"]), json.dumps(content, indent=1) + "\n", mode=0o600)


def sweep_numbers(home: Home) -> set[int]:
    """The numbers of the sweeps that have a file of any kind."""
    found = (_SWEEP_FILE.fullmatch(entry.name) for entry in _entries(home.sweeps))
    return {int(match[1]) for match in found if match is not None}


def folder_numbers(runs: Path) -> list[int]:
    """The numbers that have a folder, in order; a folder of another name is no run's."""
    return sorted(
        int(entry.name)
        for entry in _entries(runs)
        if _RUN_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    )


def foreign_entries(runs: Path) -> list[str]:
    """Names of what lies among the run folders and is none, nor was one, in order."""
    return sorted(
        entry.name
        for entry in _entries(runs)
        if not entry.name.startswith(REMOVED)
        and (not _RUN_FOLDER.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False))
    )


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
