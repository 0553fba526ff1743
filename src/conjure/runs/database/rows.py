"""How runs lie in the database's tables: records as rows and back, and filters as SQL.

Main entries: `to_columns`, `to_record`, `selection`. Invariant: every column of the table ``runs`` is named
here and nowhere else. The view ``run_rows`` has them too, with the labels, and single values of what is
stored as JSON.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from conjure.core.text import to_iso, valid_utf8
from conjure.runs.database.base import METRIC, PARAM, ListedRun, ResourceClaim, RunFilter
from conjure.runs.schema.process_facts import Owner, Usage
from conjure.runs.schema.record import (
    AttemptFacts,
    CodeFacts,
    EnvironmentFacts,
    MountFacts,
    OutputFacts,
    RunRecord,
    ending_to_dict,
    facts_from_dict,
    from_iso,
    read_fact,
    times_to_dict,
)
from conjure.runs.schema.spec import ComputeRequest, RunSpec
from conjure.runs.schema.status import PHASES, STATUS_OF_REASON, Ending, RunStatus

_TIMES = ", ".join(f"{phase}_at" for phase in PHASES)

FACTS = f"{_TIMES}, ended_at, end_reason, exit_code, signal, message"
# All of a run. The view has more, which would cost its time.
RECORD = (
    f"number, kind, command, description, labels, project, {FACTS}, command_s, total_s, end_request, gpu_ids,"
    " parent, rerun_of, archived_at, identity, owner, outputs, usage, mounts, code, environment, attempts,"
    " retry_at, spec"
)
# Without what is large of a run, so that thousands can be listed at once.
LISTED = (
    f"number, kind, command, description, labels, project, params, {FACTS}, command_s, total_s, archived_at"
)
CLAIM = (
    "number, cpus, gpus, memory_bytes, after, owner_pid, owner_host_id, building_at, gpu_ids, end_request,"
    " retry_at, CASE WHEN queued_at IS NULL THEN spec END AS submitted_spec"
)
IN_QUEUE = "end_reason IS NULL AND coalesce(owner_pid, 1) = 0"

_ORDERED_BY = {
    "number": "number",
    "status": "coalesce(end_reason, 'a')",
    "kind": "kind",
    "command": "lower(command)",
    "description": "lower(nullif(description, ''))",
    "project": "lower(project)",
    "label": "(SELECT min(lower(label)) FROM run_labels WHERE run_labels.run = number)",
    "duration": "total_s",
}
_PLAIN_WORD = re.compile(r"[0-9A-Za-z_.+-]+")  # the same in JSON, however that is written
_COMPARED = re.compile(r"(?P<name>[^<>=]+)(?P<sign>[<>=])(?P<value>.+)")


def selection(wanted: RunFilter) -> tuple[str, list[Any]]:
    """What follows "FROM run_rows" to select what a filter lets through, and the values it binds."""
    clauses, values = _conditions(wanted)
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    order = "ORDER BY number DESC"
    if wanted.sort_metric is not None:
        where = f"JOIN metrics ON metrics.run = number AND metrics.name = ? {where}"
        values = [wanted.sort_metric, *values]
        order = f"ORDER BY last_value {'DESC' if wanted.highest_first else 'ASC'}, number DESC"
    elif wanted.order is not None and not wanted.order.startswith(PARAM):
        joined, value, bound = _ordering(wanted.order)
        where, values = f"{joined} {where}", [*bound, *values]
        way = "DESC" if wanted.highest_first else "ASC"
        order = f"ORDER BY {value} IS NULL, {value} {way}, number DESC"
    limit = "" if wanted.limit is None else f"LIMIT {wanted.limit:d} OFFSET {wanted.offset:d}"
    return f"{where} {order} {limit}", values


def _ordering(order: str) -> tuple[str, str, list[Any]]:
    """A join, the SQL of the value to order by, and what the join binds."""
    if order.startswith(METRIC):
        joined = "LEFT JOIN metrics ON metrics.run = number AND metrics.name = ?"
        return joined, "last_value", [order.removeprefix(METRIC)]
    return "", _ORDERED_BY[order], []


def by_param(runs: Iterable[tuple[int, Mapping[str, str]]], name: str, *, highest_first: bool) -> list[int]:
    """Numbers of runs in the order of a param's value: numbers as numbers, runs without the param last."""
    having = [(_comparable(params[name]), -number) for number, params in runs if name in params]
    missing = [number for number, params in runs if name not in params]
    ordered = sorted(having, key=lambda pair: pair[1])  # newest first where values are equal
    ordered.sort(key=lambda pair: pair[0], reverse=highest_first)
    return [-number for _, number in ordered] + sorted(missing, reverse=True)


def _comparable(text: str) -> tuple[int, float, str]:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return (1, 0.0, text) if math.isnan(value) else (0, value, "")


def _search_condition(word: str) -> tuple[str, list[Any]]:
    """SQL for "this run matches the word", and the values it binds."""
    pattern = f"%{_literal(word)}%"
    verbatim = r"LIKE ? ESCAPE '\'"
    like = r"LIKE lower(?) ESCAPE '\'"  # the database lowers both alike: not every one knows more than a to z
    rest = f"lower(description) {like} OR lower(params) {like}"
    if _PLAIN_WORD.fullmatch(word):
        # Taking the params out of the JSON costs more than all else: only where the word is somewhere in it.
        rest = f"(lower(spec) {like} AND ({rest}))"
    parts = [
        f"lower(command) {like}",
        rest,
        f"lower(coalesce(project, '')) {like}",
        f"number IN (SELECT run FROM run_labels WHERE lower(label) {like})",
    ]
    values: list[Any] = [pattern for part in parts for _ in range(part.count("?"))]
    if re.fullmatch(r"#?[0-9]{1,18}", word):
        parts.append("number = ?")
        values.append(int(word.removeprefix("#")))
    compared = _COMPARED.fullmatch(word)
    if compared is not None and compared["sign"] == "=":
        name, value = json.dumps(compared["name"]), json.dumps(compared["value"])
        for colon in (":", ": "):  # as databases write JSON
            parts.append(f"params {verbatim}")
            values.append(f"%{_literal(f'{name}{colon}{value}')}%")
    elif compared is not None and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]{1,3})?", compared["value"]):
        metric = "SELECT 1 FROM metrics WHERE metrics.run = number AND metrics.name = ?"
        parts.append(f"EXISTS ({metric} AND metrics.last_value {compared['sign']} ?)")
        values += [compared["name"], float(compared["value"])]
    return f"({' OR '.join(parts)})", values


def _literal(text: str) -> str:
    """Text as LIKE takes it word for word."""
    return re.sub(r"([\\%_])", r"\\\1", valid_utf8(text))


def sql_placeholders(values: Iterable[object]) -> str:
    """A mark for each of some values, as a list in SQL."""
    return ", ".join("?" for _ in values)


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
        clauses.append(
            f"number IN (SELECT run FROM run_labels WHERE label IN ({sql_placeholders(wanted.labels)}))"
        )
        values += wanted.labels
    if wanted.projects:
        clause, bound = _project_condition(wanted.projects)
        clauses.append(clause)
        values += bound
    for word in wanted.search.split():
        clause, bound = _search_condition(word)
        clauses.append(clause)
        values += bound
    return clauses, values


def _project_condition(projects: Iterable[str]) -> tuple[str, list[Any]]:
    """SQL for "belongs to one of these", and the values it binds."""
    named = [project for project in projects if project]
    parts = [f"project IN ({sql_placeholders(named)})"] if named else []
    if "" in projects:
        parts.append("project IS NULL")
    return f"({' OR '.join(parts)})", list(named)


def _status_condition(status: RunStatus) -> str:
    """SQL for "has this status", from the same tables the status itself follows from."""
    if status.is_final:
        reasons = ", ".join(f"'{reason}'" for reason, final in STATUS_OF_REASON.items() if final is status)
        return f"end_reason IN ({reasons})"
    later = PHASES[PHASES.index(status) + 1 :]
    parts = ["end_reason IS NULL", f"{status}_at IS NOT NULL", *(f"{phase}_at IS NULL" for phase in later)]
    return f"({' AND '.join(parts)})"


# ---- records as rows ---------------------------------------------------------------------------------------


def to_columns(record: RunRecord) -> dict[str, Any]:
    """A record as a row of the table ``runs``; its labels have a table of their own."""
    spec = record.spec.stored()
    return {
        "number": record.number,
        "kind": spec.kind,
        "command": valid_utf8(spec.command_text),
        "description": valid_utf8(spec.description),
        "project": spec.project,
        **times_to_dict(record.facts),
        **ending_columns(record.ending, to_iso(record.facts.ended_at), record.command_s, record.total_s),
        "end_request": record.end_request,
        "gpu_ids": as_json(record.gpu_ids),
        "parent": record.parent,
        "rerun_of": record.rerun_of,
        "archived_at": to_iso(record.archived_at),
        "identity": record.identity,
        "owner": fact_as_json(record.owner),
        "outputs": fact_as_json(record.outputs),
        "usage": fact_as_json(record.usage),
        "mounts": as_json([asdict(mount) for mount in record.mounts]),
        "code": fact_as_json(record.code),
        "environment": fact_as_json(record.environment),
        "attempts": as_json([asdict(attempt) for attempt in record.attempts]),
        "retry_at": record.retry_at,
        "spec": as_json(spec.to_dict()),
    }


def ending_columns(
    ending: Ending | None, ended_at: str | None, command_s: float | None, total_s: float | None
) -> dict[str, Any]:
    """How a run ended, as columns."""
    return {**ending_to_dict(ending), "ended_at": ended_at, "command_s": command_s, "total_s": total_s}


def as_json(value: object) -> str:
    """What stays JSON in a column."""
    return json.dumps(value)


def fact_as_json(fact: Any) -> str | None:
    """A dataclass as JSON in a column."""
    return None if fact is None else as_json(asdict(fact))


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def labels_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels in a row of the view."""
    return tuple(row["labels"].split("\n")) if row["labels"] else ()


def to_record(row: Mapping[str, Any]) -> RunRecord:
    """A row with the `RECORD` columns as a record.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is damaged.
    """
    return RunRecord(
        number=int(row["number"]),
        spec=RunSpec.from_dict(
            _loaded(row["spec"]) | {"labels": list(labels_of(row)), "project": row["project"]}
        ),
        facts=facts_from_dict(dict(row)),
        code=read_fact(CodeFacts, _loaded(row["code"])),
        environment=read_fact(EnvironmentFacts, _loaded(row["environment"])),
        mounts=tuple(read_fact(MountFacts, mount) for mount in _loaded(row["mounts"])),
        outputs=read_fact(OutputFacts, _loaded(row["outputs"])),
        owner=read_fact(Owner, _loaded(row["owner"])),
        command_s=row["command_s"],
        total_s=row["total_s"],
        gpu_ids=tuple(_loaded(row["gpu_ids"])),
        end_request=row["end_request"],
        parent=row["parent"],
        rerun_of=row["rerun_of"],
        usage=read_fact(Usage, _loaded(row["usage"])),
        archived_at=from_iso(row["archived_at"]),
        identity=row["identity"],
        attempts=tuple(read_fact(AttemptFacts, attempt) for attempt in _loaded(row["attempts"])),
        retry_at=row["retry_at"],
    )


def is_as_written(row: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether a row says just what a record's file says; quicker than reading either as a record.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: One of them is damaged.
    """
    if sorted(labels_of(row)) != sorted(written["labels"]):
        return False
    if row["kind"] != written["spec"].get("kind", "run"):
        return False
    names = (name for name in row.keys() if name in written and name != "labels")  # noqa: SIM118
    return all(_same_value(row[name], written[name]) for name in names)


def _same_value(stored: Any, value: Any) -> bool:
    if isinstance(value, dict | list):
        return isinstance(stored, str) and (stored == json.dumps(value) or json.loads(stored) == value)
    return stored == value


def to_claim(row: Mapping[str, Any]) -> ResourceClaim:
    """A row with the `CLAIM` columns as what the run takes of its machine."""
    pid = row["owner_pid"]
    owner = None if pid is None else Owner(row["owner_host_id"], "", pid, "")
    # What is being submitted to a cluster takes nothing of the machine that submits it.
    goes_on = row["submitted_spec"] is not None and json.loads(row["submitted_spec"]).get("on") is not None
    return ResourceClaim(
        row["number"],
        ComputeRequest(row["cpus"], row["gpus"], row["memory_bytes"]),
        None if owner is None or goes_on else owner.machine,
        in_queue=owner is not None and owner.is_queue,
        started=row["building_at"] is not None,
        after=_numbers(row["after"]),
        gpu_ids=_numbers(row["gpu_ids"]),
        end_request=row["end_request"],
        retry_at=row["retry_at"],
    )


def _numbers(text: str | None) -> tuple[int, ...]:
    """The numbers in a JSON array, which most often is empty."""
    return () if text in (None, "[]") else tuple(json.loads(text))


def to_listed(row: Mapping[str, Any]) -> ListedRun:
    """A row with the `LISTED` columns as what a list shows."""
    params = row["params"]
    return ListedRun(
        number=row["number"],
        kind=row["kind"],
        command=row["command"],
        description=row["description"],
        labels=labels_of(row),
        project=row["project"],
        params=json.loads(params) if params and params != "{}" else {},
        facts=facts_from_dict(dict(row)),
        command_s=row["command_s"],
        total_s=row["total_s"],
        archived=row["archived_at"] is not None,
    )
