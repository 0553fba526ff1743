"""The engine that computes with torch, on any device and for every architecture.

Main entry: `TorchEngine`. Invariant: an engine's logits are those of a plain forward pass over each row's own
tokens; rows never see each other or the padding.

A model's cache holds rows of one length, shorter ones padded on their left. So a session keeps its rows in
cohorts, each with a cache: rows whose first piece is read in the same step are one, and where the cache is a
decoder's, cohorts are merged as soon as they go on by single tokens. Those of other architectures are read
one after the other.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conjure.lm.generation.engines.base import PIECE, RowQueue, refuse_unreadable
from conjure.lm.models.base import Cache, CausalLM
from conjure.lm.models.decoder import KVCache
from conjure.lm.nn.centred_head import centred_head

_MOST_TOKENS = 8192  # read at a time over all rows: bounds activations to some 300 MB at 124M parameters
_CROWDED = 0.75  # dropped rows leave a cache once fewer than this share are left: leaving copies it


class Cohort:
    """Rows that share a cache, and so go on together.

    Attributes:
        rows: Their numbers; None where one was dropped.
        sources: Which row of the cache each goes on from; forks share one until the cache is rearranged.
        cache: What they have read, each row's tokens at the right end.
        pad: Columns on the left of each row of the cache that are padding, int64, on the model's device.
        replay: A step that was recorded for this cache as it is now; see `GraphEngine`.
    """

    def __init__(self, rows: Sequence[int | None], cache: Cache, pad: Tensor) -> None:
        self.rows: list[int | None] = [*rows]
        self.cache = cache
        self.replay: Callable[[Tensor], Tensor] | None = None
        self._arranged(pad)

    @property
    def alive(self) -> list[int]:
        """Numbers of the rows that were not dropped."""
        return [row for row in self.rows if row is not None]

    @property
    def padding(self) -> Tensor | None:
        """`pad`, or None where no row is padded."""
        return self.pad if self._padded else None

    def keep(self, rows: Sequence[int]) -> None:
        """Arrange the cache so that it has just these rows, each in a row of its own."""
        sources = dict(zip(self.rows, self.sources, strict=True))
        places = torch.tensor([sources[row] for row in rows], device=self.pad.device)
        self.cache.select(places)
        self.rows, self.replay = [*rows], None
        self._arranged(self.pad[places])

    def arrange(self) -> None:
        """Do so with the rows that are left, if there are new ones or few old ones."""
        forked = self.sources != list(range(len(self.pad)))
        if forked or len(self.alive) < _CROWDED * len(self.rows):
            self.keep(self.alive)

    def pad_again(self, pad: Sequence[int]) -> None:
        """Change how much padding each row of the cache, arranged as it is, has or will have on its left."""
        self.replay = None
        self._arranged(torch.tensor(pad, device=self.pad.device))

    def _arranged(self, pad: Tensor) -> None:
        self.pad, self._padded = pad, bool(pad.any())
        self.sources = list(range(len(pad)))


class TorchEngine:
    """A model in torch, in whatever number format its weights have.

    In bfloat16 the head works on centred weights and adds the mean back in float32: rounded logits far from
    zero would blur the choice of a token.

    Attributes:
        model: The model.
    """

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self._centred = centred_head(model.head_weight) if model.dtype != torch.float32 else None

    @property
    def context_length(self) -> int:
        """Most tokens a row can hold."""
        return self.model.context_length

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes while it is remembered."""
        return self.model.cache_bytes_per_token

    def bytes_of(self, rows: Sequence[tuple[int, int]]) -> int:
        """Memory that rows may come to take once they share a cache; see `Engine.bytes_of`."""
        width = max((length for length, _ in rows), default=0)
        columns = max((width - length + capacity for length, capacity in rows), default=0)
        return self.bytes_per_token * len(rows) * min(columns, self.context_length)

    def session(self) -> "TorchSession":
        """A session without rows."""
        return TorchSession(self)

    def read(self, ids: Tensor, cohort: Cohort) -> Tensor:
        """Read new tokens, int64, (R, T), of a cohort's rows; logits of what follows, float32, (R, V)."""
        with eval_mode(self.model):
            hidden = self.model(ids.to(self.model.device), cache=cohort.cache, pad=cohort.padding)
            return self.head(hidden[:, -1])

    def head(self, hidden: Tensor) -> Tensor:
        """Logits, float32, (R, V), of hidden states, (R, C)."""
        if self._centred is None:
            return self.model.head(hidden)
        weight, mean = self._centred
        return functional.linear(hidden, weight).float() + (hidden.float() @ mean)[:, None]


class TorchSession:
    """Rows that a `TorchEngine` reads; see `Session`."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine, self._model = engine, engine.model
        self._queues: dict[int, RowQueue] = {}
        self._cohorts: dict[int, Cohort] = {}  # of each row of which something was read
        self._numbers = itertools.count()

    def add(self, rows: Sequence[Sequence[int]], capacities: Sequence[int]) -> list[int]:
        """Take in new rows; see `Session.add`."""
        context, vocab = self._model.context_length, self._model.config.vocab_size
        queues = [RowQueue(*row, context, vocab) for row in zip(rows, capacities, strict=True)]
        numbered = {next(self._numbers): queue for queue in queues}
        self._queues.update(numbered)
        return list(numbered)

    def fork(self, row: int, copies: int) -> list[int]:
        """Rows that have read the same; see `Session.fork`."""
        if not copies:
            return []
        forked = {next(self._numbers): self._queues[row].copy() for _ in range(copies)}
        cohort = self._cohorts[row]
        cohort.sources += [cohort.sources[cohort.rows.index(row)]] * copies
        cohort.rows.extend(forked)
        self._queues.update(forked)
        self._cohorts.update(dict.fromkeys(forked, cohort))
        return list(forked)

    def append(self, row: int, token: int) -> None:
        """Give a row one more token; see `Session.append`."""
        self._queues[row].append(token)

    def room(self, row: int) -> int:
        """How many more tokens fit; see `Session.room`."""
        return self._queues[row].room

    def step(self, rows: Sequence[int], piece: int = PIECE) -> tuple[list[int], np.ndarray]:
        """Read a piece of each row; see `Session.step`."""
        refuse_unreadable(rows, self._queues)
        read, logits = [], []
        for cohort in self._gathered(rows):
            logits.append(self._read(cohort, piece))
            read += cohort.rows
        places = {row: place for place, row in enumerate(read)}
        ready = [row for row in rows if not self._queues[row].unread]
        chosen = [places[row] for row in ready]
        together = logits[0] if len(logits) == 1 else np.concatenate(logits)
        return ready, together if chosen == list(range(len(together))) else together[chosen]

    def drop(self, rows: Sequence[int]) -> None:
        """Forget rows; see `Session.drop`."""
        for row in rows:
            del self._queues[row]
            cohort = self._cohorts.pop(row, None)
            if cohort is not None:
                cohort.rows[cohort.rows.index(row)] = None

    def _read(self, cohort: Cohort, piece: int) -> np.ndarray:
        """Read the next columns of a cohort, whose rows all end in the same one."""
        queues = [self._queues[row] if row is not None else None for row in cohort.rows]
        left = max(queue.unread for queue in queues if queue is not None)
        if cohort.cache.length and any(queue is not None and not queue.length for queue in queues):
            # Longer rows may have left before these began.
            width = cohort.cache.length + left
            cohort.pad_again([width - queue.length - queue.unread if queue else 0 for queue in queues])
        columns = min(left, piece, max(1, _MOST_TOKENS // len(queues)))
        ids = torch.zeros((len(queues), columns), dtype=torch.int64)
        for row, queue in zip(ids, queues, strict=True):
            if queue is not None:
                tokens = queue.take(max(0, columns - (left - queue.unread)))
                row[columns - len(tokens) :] = torch.tensor(tokens, dtype=torch.int64)
        return self._engine.read(ids, cohort).cpu().numpy()

    def _gathered(self, rows: Sequence[int]) -> list[Cohort]:
        """The cohorts that hold these rows and no others, ready to be read."""
        fresh = [row for row in rows if row not in self._cohorts]
        for group in self._groups(fresh):
            self._begin(group)
        wanted = set(rows)
        cohorts = list(dict.fromkeys(self._cohorts[row] for row in rows))
        for cohort in cohorts:
            self._split(cohort, [row for row in cohort.alive if row not in wanted])
        steady = [cohort for cohort in cohorts if self._mergeable(cohort)]
        full = any(cohort.cache.length == cohort.cache.capacity for cohort in steady)
        if len(steady) > 1 or full:
            cohorts = [cohort for cohort in cohorts if cohort not in steady] + [self._merge(steady)]
        for cohort in cohorts:
            cohort.arrange()
        return cohorts

    def _groups(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Rows that are new, in groups that can be padded to one length and still end within the context."""
        longest = sorted(rows, key=lambda row: -self._queues[row].unread)
        group: list[int] = []
        for row in longest:
            padding = self._queues[group[0]].unread - self._queues[row].unread if group else 0
            if padding + self._queues[row].capacity > self._model.context_length:
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _begin(self, rows: Sequence[int]) -> None:
        queues = [self._queues[row] for row in rows]
        pad = [queues[0].unread - queue.unread for queue in queues]
        capacity = max(columns + queue.capacity for columns, queue in zip(pad, queues, strict=True))
        cache = self._model.new_cache(len(rows), capacity)
        cohort = Cohort(rows, cache, torch.tensor(pad, device=self._model.device))
        self._cohorts.update(dict.fromkeys(rows, cohort))

    def _split(self, cohort: Cohort, waiting: list[int]) -> None:
        """Give rows of a cohort that are not read now a copy of its cache."""
        if not waiting:
            return
        other = Cohort(cohort.rows, copy.deepcopy(cohort.cache), cohort.pad)
        other.sources = [*cohort.sources]
        other.keep(waiting)
        self._cohorts.update(dict.fromkeys(waiting, other))
        cohort.keep([row for row in cohort.alive if row not in waiting])

    def _mergeable(self, cohort: Cohort) -> bool:
        last_column = all(self._queues[row].unread == 1 for row in cohort.alive)
        return last_column and cohort.cache.length > 0 and isinstance(cohort.cache, KVCache)

    def _merge(self, cohorts: list[Cohort]) -> Cohort:
        """One cohort of all rows, with no more padding than the longest row asks for."""
        rows = [row for cohort in cohorts for row in cohort.alive]
        queues = [self._queues[row] for row in rows]
        width = max(queue.length for queue in queues)
        pad = [width - queue.length for queue in queues]
        capacity = max(columns + queue.capacity for columns, queue in zip(pad, queues, strict=True))
        cache = self._model.new_cache(len(rows), min(capacity, self._model.context_length))
        assert isinstance(cache, KVCache)
        cache.length = width
        first = 0
        for cohort in cohorts:
            cohort.keep(cohort.alive)
            old, last = cohort.cache, first + len(cohort.rows)
            assert isinstance(old, KVCache)
            columns = min(width, old.length)
            for mine, theirs in zip((*cache.keys, *cache.values), (*old.keys, *old.values), strict=True):
                mine[first:last, :, width - columns : width] = theirs[:, :, old.length - columns : old.length]
            first = last
        merged = Cohort(rows, cache, torch.tensor(pad, device=self._model.device))
        self._cohorts.update(dict.fromkeys(rows, merged))
        return merged


@contextmanager
def eval_mode(model: CausalLM) -> Iterator[None]:
    """Gradients and dropout off inside the block, and dropout as it was afterwards."""
    training = model.training
    if training:  # walking through all modules takes longer than it looks, so not without need
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
