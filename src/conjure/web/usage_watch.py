"""What a run uses of the machine, as it is seen while somebody looks at its page.

Main entry: `UsageWatch.look_at`. Invariant: nothing is measured for nobody, and what is kept is bounded.
"""

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from conjure.core.home import Home
from conjure.runs.inspect.live_usage import Sampler
from conjure.runs.schema.process_facts import Owner
from conjure.runs.schema.record import RunRecord

_EVERY_S = 1.0
_SAMPLES = 3600
_RUNS = 20

# Seconds since the epoch, percent of a core, bytes of memory, bytes of GPU memory or None.
UsageSample = tuple[float, float, int, int | None]


@dataclass(slots=True)
class _Watched:
    owner: Owner | None  # that the sampler looks at
    sampler: Sampler
    looked_at: float
    samples: "deque[UsageSample]" = field(default_factory=lambda: deque(maxlen=_SAMPLES))


class UsageWatch:
    """Samples of the runs that were looked at last."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._watched: OrderedDict[int, _Watched] = OrderedDict()

    def look_at(self, record: RunRecord, after: float = 0.0) -> list[UsageSample]:
        """The samples after a moment, with a new one if the last is a second old; none of a run elsewhere."""
        with self._lock:
            watched = self._watched.get(record.number)
            if record.status.is_final:
                return [] if watched is None else [each for each in watched.samples if each[0] > after]
            if watched is None:
                sampler = Sampler(self._home, record)
                self._watched[record.number] = _Watched(record.owner, sampler, time.monotonic())
                while len(self._watched) > _RUNS:
                    self._watched.popitem(last=False)
                return []
            if record.owner != watched.owner:  # it left the queue, or another attempt began
                watched.owner, watched.sampler = record.owner, Sampler(self._home, record)
                watched.looked_at = time.monotonic()
            elif time.monotonic() - watched.looked_at >= _EVERY_S:
                watched.looked_at = time.monotonic()
                sample = watched.sampler.sample()
                if sample is not None:
                    watched.samples.append(
                        (
                            round(time.time(), 1),
                            sample.cpu_percent,
                            sample.memory_bytes,
                            sample.gpu_memory_bytes,
                        )
                    )
            return [each for each in watched.samples if each[0] > after]
