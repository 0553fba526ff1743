"""The index of metrics in a database.

Main entry: `MetricStatements` (see `base.Metrics`). Invariant: it says what the metrics file of a run says,
or said a moment ago; the file is the truth.
"""

from collections.abc import Iterable

from conjure.runs.database.rows import sql_placeholders
from conjure.runs.database.statements import Statements
from conjure.runs.telemetry.metrics import Summary, metric_summaries, read_points

_COLUMNS = ("name", "points", "last_step", "last_value", "lowest", "highest")
_ASKED_AT_ONCE = 500


class MetricStatements(Statements):
    """See `base.Metrics`, which says what each method does."""

    def set_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        """Write down how a run's metrics stand."""
        self._change(number, lambda: self._set_summaries(number, summaries))

    def refresh_summaries(self, number: int) -> None:
        """Make the index of a run's metrics say what their file says."""
        summaries = self._summarised(number)
        self._change(number, lambda: self._replace_summaries(number, summaries))

    def summaries(self, number: int) -> dict[str, Summary]:
        """How a run's metrics stand, by name."""
        rows = self._session.query(
            f"SELECT {', '.join(_COLUMNS)} FROM metrics WHERE run = ? ORDER BY name", (number,)
        )
        return {row["name"]: Summary(*(row[name] for name in _COLUMNS)) for row in rows}

    def latest_values(self, numbers: Iterable[int]) -> dict[int, dict[str, float]]:
        """The newest value of every metric of some runs."""
        found: dict[int, dict[str, float]] = {}
        wanted = list(numbers)
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            some = wanted[start : start + _ASKED_AT_ONCE]
            for row in self._session.query(
                f"SELECT run, name, last_value FROM metrics WHERE run IN ({sql_placeholders(some)})"
                " ORDER BY run, name",
                some,
            ):
                found.setdefault(row["run"], {})[row["name"]] = row["last_value"]
        return found

    def metric_names(self) -> list[str]:
        """The names of all metrics that any run has, in order."""
        return self._column("SELECT DISTINCT name FROM metrics ORDER BY name")

    def _summarised(self, number: int) -> list[Summary]:
        return list(metric_summaries(read_points(self.home.run_folder(number))).values())

    def _replace_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        self._session.execute("DELETE FROM metrics WHERE run = ?", (number,))
        self._set_summaries(number, summaries)

    def _set_summaries(self, number: int, summaries: Iterable[Summary]) -> None:
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        for summary in sorted(summaries, key=lambda summary: summary.name):
            self._session.execute(
                f"INSERT INTO metrics (run, {', '.join(_COLUMNS)}) VALUES (?, {sql_placeholders(_COLUMNS)})"
                f" ON CONFLICT (run, name) DO UPDATE SET {changes}",
                (number, *(getattr(summary, name) for name in _COLUMNS)),
            )
