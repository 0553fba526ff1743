"""The table of runs, and what changed of it since it was last asked for.

Main entries: `table`, `changes`. Invariant: what the table shows follows from its address alone, and one page
of it is read from the database, never all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from conjure.core.text import did_you_mean
from conjure.errors import UsageError
from conjure.runs.database.base import METRIC, ORDERS, PARAM, Database, RunFilter
from conjure.runs.schema.status import RunStatus
from conjure.runs.views import RunRow, list_page
from conjure.web.rendering import page, piece
from conjure.web.routes.curves import MOST_RUNS
from conjure.web.site import Site

PAGE_ROWS = 100
_AROUND = 0
_MOST_PARAMS = 4  # that are shown unasked
_LONGEST_SEARCH = 500


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column.

    Attributes:
        key: ``status``, ``param:lr``, ``metric:loss`` …
        title: Its heading.
        right: Whether it holds numbers.
        order: What the list is ordered by when it is chosen, or None.
    """

    key: str
    title: str
    right: bool = False
    order: str | None = None


_COLUMNS = {
    column.key: column
    for column in (
        TableColumn("status", "Status", order="status"),
        TableColumn("command", "Command", order="command"),
        TableColumn("description", "Description", order="description"),
        TableColumn("kind", "Kind", order="kind"),
        TableColumn("project", "Project", order="project"),
        TableColumn("labels", "Labels", order="label"),
        TableColumn("metric", "Key metric", right=True),
        TableColumn("curve", "Curve"),
        TableColumn("age", "Age", right=True, order="number"),
        TableColumn("duration", "Duration", right=True, order="duration"),
    )
}
_UNASKED = ("status", "command", "project", "labels", "metric", "curve", "age", "duration")


@dataclass(frozen=True, slots=True)
class TableQuery:
    """What an address asks for."""

    search: str
    statuses: tuple[RunStatus, ...]
    projects: tuple[str, ...]
    archived: bool
    order: str | None
    highest_first: bool
    page: int
    columns: tuple[str, ...]

    @classmethod
    def of(cls, query: QueryParams) -> "TableQuery":
        """The query in an address.

        Raises:
            UsageError: It names a status, an order or a column that there is none of.
        """
        order = query.get("sort") or None
        name = None if order is None else order.removeprefix("-")
        columns = tuple(dict.fromkeys(query.getlist("column")))
        for what, given, known in (
            ("order", name, ORDERS),
            *(("column", each, _COLUMNS) for each in columns),
        ):
            if given is not None and given not in known and not given.startswith((PARAM, METRIC)):
                raise UsageError(
                    f"the table has no {what} {given!r}; {did_you_mean(given, known) or _names(known)}"
                )
        search = query.get("q", "")
        if len(search) > _LONGEST_SEARCH:
            raise UsageError(f"a search has at most {_LONGEST_SEARCH} characters; this has {len(search)}")
        return cls(
            search=search,
            statuses=tuple(_status(each) for each in query.getlist("status") if each),
            projects=tuple(each for each in query.getlist("project") if each),
            archived=query.get("archived") == "1",
            order=name,
            highest_first=order is not None and order.startswith("-"),
            page=_page_number(query.get("page", "1")),
            columns=columns,
        )

    @property
    def filter(self) -> RunFilter:
        """The filter for the page of it."""
        return RunFilter(
            limit=PAGE_ROWS,
            offset=(self.page - 1) * PAGE_ROWS,
            statuses=self.statuses,
            projects=self.projects,
            archived=self.archived,
            search=self.search,
            order=self.order,
            highest_first=self.highest_first,
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether some runs are left out on purpose."""
        return bool(self.search or self.statuses or self.projects)

    def address(self, **changes: Any) -> str:
        """The address of the same table with something changed."""
        order = None if self.order is None else f"{'-' if self.highest_first else ''}{self.order}"
        values: dict[str, Any] = {
            "q": self.search,
            "status": [str(each) for each in self.statuses],
            "project": self.projects,
            "archived": "1" if self.archived else "",
            "sort": order,
            "column": self.columns,
            "page": self.page if self.page > 1 else "",
        } | changes
        query = urlencode({name: value for name, value in values.items() if value}, doseq=True)
        return f"/runs?{query}" if query else "/runs"

    def sorted_by(self, column: TableColumn) -> str:
        """The address that orders by a column: numbers highest first, a second time the other way round."""
        highest = not self.highest_first if self.order == column.order else column.right
        return self.address(sort=f"{'-' if highest else ''}{column.order}", page="")


def table(request: Request) -> Response:
    """The page."""
    site: Site = request.app.state.site
    query = TableQuery.of(request.query_params)
    with site.store() as store:
        rows, total = list_page(store, query.filter)
        metrics, projects = store.metric_names(), store.project_names()
        in_all = _count_all(store, query, total)
    around = _around(query, total, in_all, len(rows))
    columns = _columns(query, rows)
    cells = {row.number: _cells(row, columns) for row in rows}
    return page(
        request,
        "runs.html",
        query=query,
        columns=columns,
        rows=rows,
        cells=cells,
        around=around,
        cursor=site.states.keep(_state(cells, around)),
        total=total,
        in_all=in_all,
        choices=_choices(columns, rows, metrics),
        statuses=list(RunStatus),
        projects=projects,
        live_query=str(request.query_params),
        most_compared=MOST_RUNS,
    )


def changes(request: Request) -> Response:
    """What changed of the table since the state that ``since`` names."""
    site: Site = request.app.state.site
    query = TableQuery.of(request.query_params)
    with site.store() as store:
        rows, total = list_page(store, query.filter)
        in_all = _count_all(store, query, total)
    around = _around(query, total, in_all, len(rows))
    named = request.query_params.getlist("shown")
    columns = [_column(key) for key in named] if named else _columns(query, rows)
    cells = {row.number: _cells(row, columns) for row in rows}
    state, since = _state(cells, around), request.query_params.get("since", "")
    cursor = site.states.keep(state)
    answer: dict[str, Any] = {"cursor": cursor, "active": sum(row.is_active for row in rows)}
    if cursor != since:
        before = site.states.get(since)
        changed = {number: cells[number] for number in cells if before.get(number) != state[number]}
        answer |= {"order": list(cells), "changed": changed, **around}
    return JSONResponse(answer)


def _columns(query: TableQuery, rows: list[RunRow]) -> list[TableColumn]:
    if query.columns:
        return [_column(key) for key in query.columns]
    unasked = [_COLUMNS[key] for key in _UNASKED]
    for key in ("project", "labels"):
        if not any(getattr(row.run, key) for row in rows):
            unasked.remove(_COLUMNS[key])
    if not any(row.metrics for row in rows):
        unasked = [column for column in unasked if column.key not in ("metric", "curve")]
    params = [_column(f"{PARAM}{name}") for name in _differing_params(rows)[:_MOST_PARAMS]]
    return [*unasked[:2], *params, *unasked[2:]]


def _column(key: str) -> TableColumn:
    if key in _COLUMNS:
        return _COLUMNS[key]
    return TableColumn(key, key.partition(":")[2], right=True, order=key)


def _differing_params(rows: list[RunRow]) -> list[str]:
    values: dict[str, set[str | None]] = {}
    for row in rows:
        for name in row.run.params:
            values.setdefault(name, set())
    for name, seen in values.items():
        seen.update(row.run.params.get(name) for row in rows)
    return [name for name, seen in values.items() if len(seen) > 1]


def _cells(row: RunRow, columns: list[TableColumn]) -> list[str]:
    describes = not any(column.key == "description" for column in columns)  # below the command, then
    return [piece("cells.html", "cell", column, row, describes).strip() for column in columns]


def _count_all(store: Database, query: TableQuery, total: int) -> int:
    """How many runs there would be if none were left out on purpose."""
    return store.count(RunFilter(archived=query.archived)) if query.is_narrowed else total


def _around(query: TableQuery, total: int, in_all: int, shown: int) -> dict[str, str]:
    """What stands around the rows: how many there are, and the ways to other pages."""
    first, pages = query.filter.offset + 1, max(-(-total // PAGE_ROWS), 1)
    return {
        "heading": piece("macros.html", "table_heading", query, total, in_all),
        "pager": piece("macros.html", "pager", query, total, first, first + shown - 1, pages).strip(),
    }


def _state(cells: Mapping[int, list[str]], around: Mapping[str, str]) -> dict[int, int]:
    """How everything looks: the row of each run, and at 0, the number of none, what stands around them."""
    return {_AROUND: hash(tuple(around.values()))} | {
        number: hash(tuple(each)) for number, each in cells.items()
    }


def _choices(
    columns: list[TableColumn], rows: list[RunRow], metrics: list[str]
) -> list[tuple[str, list[Any]]]:
    """Every column there could be, in groups, each with whether it is shown."""
    chosen = {column.key for column in columns}
    params = dict.fromkeys(name for row in rows for name in row.run.params)
    named = {key.partition(":")[2] for key in chosen if key.startswith(PARAM)}
    groups = [
        ("Run", list(_COLUMNS)),
        ("Params", [f"{PARAM}{name}" for name in dict.fromkeys([*params, *sorted(named)])]),
        ("Metrics", [f"{METRIC}{name}" for name in metrics]),
    ]
    return [(title, [(_column(key), key in chosen) for key in keys]) for title, keys in groups if keys]


def _status(name: str) -> RunStatus:
    try:
        return RunStatus(name)
    except ValueError as error:
        raise UsageError(f"there is no status {name!r}; allowed: {', '.join(RunStatus)}") from error


def _page_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 9 or int(text) < 1:
        raise UsageError(f"the page must be an integer of at least 1, not {text!r}")
    return int(text)


def _names(known: Iterable[str]) -> str:
    return f"allowed: {', '.join(known)}, param:NAME, metric:NAME"
