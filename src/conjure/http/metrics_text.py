"""Metrics in Prometheus's text format: counters, gauges and histograms with labels.

Main entry: `Metrics`. Invariant: values are changed and read under one lock, so that any thread may count and
what is shown belongs together.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Family:
    """All series of one name."""

    kind: str
    help: str
    bounds: Sequence[float] = ()
    values: dict[Labels, float] = field(default_factory=dict)
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    source: Callable[[], dict[Labels, float]] | None = None


class Metrics:
    """The metrics of one server.

    Args:
        prefix: Of all names, with what separates it.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: dict[str, _Family] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_: str) -> None:
        """Declare a count that only grows; its name ends in ``_total``."""
        self._families[name] = _Family("counter", help_)

    def gauge(self, name: str, help_: str, source: Callable[[], dict[Labels, float]]) -> None:
        """Declare a value that is asked for when the metrics are shown."""
        self._families[name] = _Family("gauge", help_, source=source)

    def histogram(self, name: str, help_: str, bounds: Sequence[float]) -> None:
        """Declare a distribution, by the ascending upper bounds of its buckets."""
        self._families[name] = _Family("histogram", help_, bounds=bounds)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count more."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            values = self._families[name].values
            values[key] = values.get(key, 0.0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        key = tuple(sorted(labels.items()))
        family = self._families[name]
        with self._lock:
            counts = family.counts.setdefault(key, [0] * (len(family.bounds) + 1))
            counts[bisect_left(family.bounds, value)] += 1
            family.values[key] = family.values.get(key, 0.0) + value

    def total(self, name: str) -> float:
        """The sum of a counter over all labels."""
        with self._lock:
            return sum(self._families[name].values.values())

    def render(self) -> str:
        """All metrics as text."""
        lines: list[str] = []
        for name, family in self._families.items():
            values = family.source() if family.source is not None else None
            with self._lock:
                lines += self._lines(name, family, family.values if values is None else values)
        return "\n".join([*lines, ""])

    def _lines(self, name: str, family: _Family, values: dict[Labels, float]) -> list[str]:
        full = f"{self._prefix}{name}"
        lines = [f"# HELP {full} {family.help}", f"# TYPE {full} {family.kind}"]
        if family.kind != "histogram":
            return lines + [f"{full}{_labels(key)} {_number(value)}" for key, value in values.items()]
        for key, counts in family.counts.items():
            running = 0
            for bound, count in zip([*map(_number, family.bounds), "+Inf"], counts, strict=True):
                running += count
                lines.append(f"{full}_bucket{_labels((*key, ('le', bound)))} {running}")
            lines += [
                f"{full}_sum{_labels(key)} {_number(values[key])}",
                f"{full}_count{_labels(key)} {running}",
            ]
        return lines


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
