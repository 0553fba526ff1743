"""How runs lie in the database: records as rows and back, and filters as SQL.

Main entries: `RunFilter`, `selection`, `to_columns`, `to_record`. Invariant: a row holds what the record's
JSON form holds, and is read back by the record's own reader.
"""

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjure.core.text import valid_utf8
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord, facts_from_dict
from conjure.runs.schema.spec import ComputeRequest
from conjure.runs.schema.status import PHASES, STATUS_OF_REASON, Facts, RunStatus

LAST = re.compile(r"last(?:~(?P<back>[0-9]{1,9}))?")  # the newest run, or so many before it


_JSON_COLUMNS = ("spec", "owner", "outputs", "usage", "code", "environment", "mounts", "gpu_ids")

FACTS = ", ".join(
    [*(f"{phase}_at" for phase in PHASES), "ended_at", "end_reason", "exit_code", "signal", "message"]
)
LABELS = "(SELECT group_concat(label, char(10)) FROM run_labels WHERE run_labels.run = number) AS labels"
# Without what is large of a run, so that thousands can be listed at once.
LISTED = (
    f"number, kind, command, description, {LABELS}, json_extract(spec, '$.params') AS params, {FACTS},"
    " command_s, total_s, archived_at"
)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first unless sorted by a metric.

    Attributes:
        limit: At most so many, or None for all.
        statuses: Only these; empty for any.
        labels: Only runs with at least one of these; empty for any.
        kind: Only this kind, or None.
        archived: Also runs that were put away.
        sort_metric: Order by this metric's newest value, lowest first; runs without it are left out.
        highest_first: Turn the order of `sort_metric` or `order` around.
        search: Only runs that match every word: text in the command, description, a label or a param;
            ``lr=0.1`` for a param's value, ``loss<0.5`` or ``loss>0.5`` for a metric's newest one.
        order: Order by one of `ORDERS`, by ``param:NAME`` or by ``metric:NAME``; runs without a value come
            last. None for newest first.
        offset: Leave out so many at the beginning.
    """

    limit: int | None = None
    statuses: tuple[RunStatus, ...] = ()
    labels: tuple[str, ...] = ()
    kind: str | None = None
    archived: bool = False
    sort_metric: str | None = None
    highest_first: bool = False
    search: str = ""
    order: str | None = None
    offset: int = 0


# What a list can be ordered by, beside params and metrics; the words are SQL.
ORDERS = {
    "number": "number",
    "status": "coalesce(end_reason, 'a')",
    "kind": "kind",
    "command": "lower(command)",
    "description": "lower(nullif(description, ''))",
    "label": "(SELECT min(lower(label)) FROM run_labels WHERE run_labels.run = number)",
    "duration": "total_s",
}
PARAM, METRIC = "param:", "metric:"
_COMPARED = re.compile(r"(?P<name>[^<>=]+)(?P<sign>[<>=])(?P<value>.+)")


@dataclass(frozen=True, slots=True)
class ListedRun:
    """As much of a run as a list of many shows; its facts tell its status."""

    number: int
    kind: str
    command: str
    description: str
    labels: tuple[str, ...]
    params: Mapping[str, str]
    facts: Facts
    command_s: float | None
    total_s: float | None
    archived: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What an active run asks for, or has, of a machine's resources.

    Attributes:
        number: The run.
        needs: What it asks for.
        machine: The `host_id` of the machine it is on, or None.
        in_queue: Whether it waits there, without a supervisor.
        started: Whether it has what it asks for.
        gpu_ids: GPUs it was given.
        end_request: ``stop`` or ``kill`` when somebody asked for one.
    """

    number: int
    needs: ComputeRequest
    machine: str | None
    in_queue: bool = False
    started: bool = False
    gpu_ids: tuple[int, ...] = ()
    end_request: str | None = None


CLAIM = (
    "number, json_extract(spec, '$.resources') AS needs, owner, building_at IS NOT NULL AS started, gpu_ids,"
    " end_request"
)
IN_QUEUE = "end_reason IS NULL AND coalesce(json_extract(owner, '$.pid') = 0, 0)"


def selection(wanted: RunFilter) -> tuple[str, list[Any]]:
    """What follows "FROM runs" to select what a filter lets through, and the values it binds."""
    clauses, values = _conditions(wanted)
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    order = "ORDER BY number DESC"
    if wanted.sort_metric is not None:
        where = f"JOIN metrics ON metrics.run = number AND metrics.name = ? {where}"
        values = [wanted.sort_metric, *values]
        order = f"ORDER BY last_value {'DESC' if wanted.highest_first else 'ASC'}, number DESC"
    elif wanted.order is not None:
        joined, order, bound, ordering = _ordered(wanted.order, highest_first=wanted.highest_first)
        where, values = f"{joined} {where}", [*bound, *values, *ordering]
    limit = "" if wanted.limit is None else f"LIMIT {wanted.limit:d} OFFSET {wanted.offset:d}"
    return f"{where} {order} {limit}", values


def _ordered(order: str, *, highest_first: bool) -> tuple[str, str, list[Any], list[Any]]:
    """A join and an ORDER BY, and what each binds."""
    way = "DESC" if highest_first else "ASC"
    if order.startswith(METRIC):
        joined = "LEFT JOIN metrics ON metrics.run = number AND metrics.name = ?"
        by = f"ORDER BY last_value IS NULL, last_value {way}, number DESC"
        return joined, by, [order.removeprefix(METRIC)], []
    if order.startswith(PARAM):
        path = _param_path(order.removeprefix(PARAM))
        value = "json_extract(spec, ?)"
        by = f"ORDER BY {value} IS NULL, CAST({value} AS REAL) {way}, {value} {way}, number DESC"
        return "", by, [], [path] * 3
    value = ORDERS[order]
    return "", f"ORDER BY {value} IS NULL, {value} {way}, number DESC", [], []


def _param_path(name: str) -> str:
    return f"""$.params."{name.replace('"', "")}\""""


def _search_condition(word: str) -> tuple[str, list[Any]]:
    """SQL for "this run matches the word", and the values it binds."""
    pattern = "%" + re.sub(r"([\\%_])", r"\\\1", valid_utf8(word)) + "%"
    parts = [
        "command LIKE ? ESCAPE '\\'",
        "description LIKE ? ESCAPE '\\'",
        "EXISTS (SELECT 1 FROM run_labels WHERE run_labels.run = number AND label LIKE ? ESCAPE '\\')",
        "json_extract(spec, '$.params') LIKE ? ESCAPE '\\'",
    ]
    values: list[Any] = [pattern] * len(parts)
    if re.fullmatch(r"#?[0-9]{1,18}", word):
        parts.append("number = ?")
        values.append(int(word.removeprefix("#")))
    compared = _COMPARED.fullmatch(word)
    if compared is not None and compared["sign"] == "=":
        parts.append("json_extract(spec, ?) = ?")
        values += [_param_path(compared["name"]), compared["value"]]
    elif compared is not None and re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", compared["value"]):
        parts.append(
            "EXISTS (SELECT 1 FROM metrics WHERE metrics.run = number AND metrics.name = ?"
            f" AND metrics.last_value {compared['sign']} CAST(? AS REAL))"
        )
        values += [compared["name"], compared["value"]]
    return f"({' OR '.join(parts)})", values


def _conditions(wanted: RunFilter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if not wanted.archived:
        clauses.append("archived_at IS NULL")
    if wanted.kind is not None:
        clauses.append("kind = ?")
        values.append(wanted.kind)
    if wanted.statuses:
        clauses.append(f"({' OR '.join(_status_condition(status) for status in wanted.statuses)})")
    if wanted.labels:
        marks = ", ".join("?" * len(wanted.labels))
        clauses.append(f"number IN (SELECT run FROM run_labels WHERE label IN ({marks}))")
        values += wanted.labels
    for word in wanted.search.split():
        clause, bound = _search_condition(word)
        clauses.append(clause)
        values += bound
    return clauses, values


def _status_condition(status: RunStatus) -> str:
    """SQL for "has this status", from the same tables the status itself follows from."""
    if status.is_final:
        reasons = ", ".join(f"'{reason}'" for reason, final in STATUS_OF_REASON.items() if final is status)
        return f"end_reason IN ({reasons})"
    later = PHASES[PHASES.index(status) + 1 :]
    parts = ["end_reason IS NULL", f"{status}_at IS NOT NULL", *(f"{phase}_at IS NULL" for phase in later)]
    return f"({' AND '.join(parts)})"


def to_columns(record: RunRecord) -> dict[str, Any]:
    """A record as a row: the keys of its JSON form, where what is not plain stays JSON text."""
    stored = record.to_dict() | {"kind": record.spec.kind}
    for derived in ("status", "labels", "params"):
        del stored[derived]
    return bindable(
        {
            name: json.dumps(value) if isinstance(value, dict | list) else value
            for name, value in stored.items()
        }
    )


def bindable(columns: dict[str, Any]) -> dict[str, Any]:
    """Values that SQLite takes: names that are not UTF-8 show their odd bytes."""
    return {name: valid_utf8(value) if isinstance(value, str) else value for name, value in columns.items()}


def to_record(row: sqlite3.Row) -> RunRecord:
    """A row as a record, through the record's own reader."""
    stored: dict[str, Any] = dict(row)
    for name in _JSON_COLUMNS:
        stored[name] = None if stored[name] is None else json.loads(stored[name])
    stored["spec"]["labels"] = stored["labels"].split("\n") if stored["labels"] else []
    return RunRecord.from_dict(stored)


def is_as_written(row: sqlite3.Row, written: Mapping[str, Any]) -> bool:
    """Whether a row says just what the JSON form of a record says; quicker than reading either as a record.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: One of them is damaged.
    """
    labels = row["labels"].split("\n") if row["labels"] else []
    if sorted(labels) != sorted(written["labels"]) or row["kind"] != written["spec"].get("kind", "run"):
        return False
    names = (name for name in row.keys() if name in written and name != "labels")  # noqa: SIM118
    return all(_same_value(row[name], written[name]) for name in names)


def _same_value(stored: Any, value: Any) -> bool:
    if isinstance(value, dict | list):
        return isinstance(stored, str) and (stored == json.dumps(value) or json.loads(stored) == value)
    return stored == value


def to_claim(row: sqlite3.Row) -> Claim:
    """A row with the `CLAIM` columns as what the run takes of its machine."""
    owner = None if row["owner"] is None else Owner(**json.loads(row["owner"]))
    needs = json.loads(row["needs"]) if row["needs"] else {}
    return Claim(
        row["number"],
        ComputeRequest(needs.get("cpus"), needs.get("gpus"), needs.get("memory_bytes")),
        None if owner is None else owner.machine,
        in_queue=owner is not None and owner.is_queue,
        started=bool(row["started"]),
        gpu_ids=tuple(json.loads(row["gpu_ids"])),
        end_request=row["end_request"],
    )


def to_listed(row: sqlite3.Row) -> ListedRun:
    """A row with the `LISTED` columns as what a list shows."""
    stored: dict[str, Any] = dict(row)
    labels, params = stored["labels"], stored["params"]
    return ListedRun(
        number=stored["number"],
        kind=stored["kind"],
        command=stored["command"],
        description=stored["description"],
        labels=tuple(labels.split("\n")) if labels else (),
        params=json.loads(params) if params and params != "{}" else {},
        facts=facts_from_dict(stored),
        command_s=stored["command_s"],
        total_s=stored["total_s"],
        archived=stored["archived_at"] is not None,
    )
