"""What every page stands on: the home it shows, what it may do, and what it keeps between two requests.

Main entry: `Site`. Invariant: a page that only shows something gets a store that refuses every change.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from conjure.core.home import Home
from conjure.runs.artifacts.team_transfer import bring_streams
from conjure.runs.database.base import Database
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry.metric_column_cache import ColumnCache, MetricColumns
from conjure.web.usage_watch import UsageWatch

_BRING_EVERY_S = 1.0
_STATES_KEPT = 200


class Site:
    """One home as pages.

    Attributes:
        home: Where the runs are.
        allow_actions: Whether pages may change anything.
        states: What was last shown to whom.
        usage: What the runs that are looked at use of the machine.

    Args:
        home: Where the runs are.
        allow_actions: Whether pages may change anything.
    """

    def __init__(self, home: Home, *, allow_actions: bool = False) -> None:
        self.home = home
        self.allow_actions = allow_actions
        self.states = ShownStates()
        self.usage = UsageWatch(home)
        self._columns = ColumnCache()
        self._brought: dict[int, float] = {}

    @contextmanager
    def store(self) -> Iterator[Database]:
        """The store, for looking only; runs that their supervisor left behind are closed first."""
        with open_store(self.home) as store:
            if isinstance(store, SqliteDatabase):
                store.forbid_writing()
            yield store

    def columns(self, number: int, until: float | None = None) -> MetricColumns:
        """A run's metrics as columns, up to date.

        Args:
            number: The run.
            until: When to stop reading them, by `time.monotonic`; the next call goes on from there.
        """
        return self._columns.open(self.folder(number).path, until)

    def metric_names(self, number: int, summaries: Iterable[str], until: float) -> list[str]:
        """A run's metrics; of one whose points would take longer to read, those that the store knows of.

        Args:
            number: The run.
            summaries: What the store knows of.
            until: When to stop reading, by `time.monotonic`.
        """
        columns = self.columns(number, until)
        names = columns.names()
        return names if columns.is_whole else list(dict.fromkeys([*names, *summaries]))

    def folder(self, number: int) -> RunFolder:
        """A run's folder; of one on another machine, with its log and metrics as they were a second ago."""
        now = time.monotonic()
        is_old = now - self._brought.get(number, -_BRING_EVERY_S) >= _BRING_EVERY_S
        if is_old and self.home.is_elsewhere(number):
            self._brought[number] = now
            bring_streams(self.home, number)
        return RunFolder.of(self.home, number)


class ShownStates:
    """What pages show, by a short name of it, so that an answer need only tell what changed since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[str, Mapping[int, int]] = OrderedDict()

    def get(self, name: str) -> Mapping[int, int]:
        """The state of that name: thing -> digest of how it looked; empty if it is forgotten."""
        with self._lock:
            return self._states.get(name, {})

    def keep(self, state: Mapping[int, int]) -> str:
        """Remember a state for a while; its name."""
        name = f"{hash(tuple(state.items())) & 0xFFFFFFFFFFFFFFFF:x}"
        with self._lock:
            self._states[name] = state
            self._states.move_to_end(name)
            while len(self._states) > _STATES_KEPT:
                self._states.popitem(last=False)
        return name
