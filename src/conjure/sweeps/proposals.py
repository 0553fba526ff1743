"""Which values a trial gets.

Main entry: `propose`. Invariant: a trial of a grid or of random search is a function of (request, number)
alone, and one of tpe of these and the history; whoever asks again is told the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from conjure.sweeps.request import SEED_PARAMETER, SweepRequest
from conjure.sweeps.space import Choice

_SHARES = 2**53  # as many as a float tells apart


@dataclass(frozen=True, slots=True)
class PastCell:
    """What is known of a cell: a set of values that was tried, or is being tried.

    Attributes:
        params: Its values.
        state: What became of it.
        value: The metric, the mean of its repetitions; of a pruned one, at its last rung. Else None.
        rung: The last rung of a pruned one.
    """

    params: dict[str, str]
    state: Literal["running", "complete", "pruned", "failed"]
    value: float | None = None
    rung: int = 0


def propose(request: SweepRequest, trial: int, history: Sequence[PastCell] = ()) -> dict[str, str]:
    """The values of a trial's parameters.

    Args:
        request: The sweep.
        trial: The trial's number; repetitions of a cell follow one another.
        history: What is known of the cells before the trial's, in order; tpe alone looks at it.
    """
    cell, repetition = divmod(trial, request.seeds)
    params = _cell(request, cell, history)
    return {**params, SEED_PARAMETER: str(repetition + 1)} if request.seeds > 1 else params


def _cell(request: SweepRequest, cell: int, history: Sequence[PastCell]) -> dict[str, str]:
    if request.method == "grid":
        return _grid_cell(request, cell)
    if request.method == "random":
        return {
            name: domain.at(unit_draw(request.seed, name, cell)) for name, domain in request.space.items()
        }
    # Optuna, which only this method needs.
    from conjure.sweeps.tpe import tpe_cell

    return tpe_cell(request, cell, history)


def _grid_cell(request: SweepRequest, cell: int) -> dict[str, str]:
    """The cell of a grid in which the last parameter changes first."""
    params: dict[str, str] = {}
    for name, domain in reversed(list(request.space.items())):
        assert isinstance(domain, Choice)
        cell, place = divmod(cell, len(domain.values))
        params[name] = domain.values[place]
    return {name: params[name] for name in request.space}


def unit_draw(seed: int, name: str, cell: int) -> float:
    """A number from 0 to below 1 that only these decide, as if drawn."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{cell}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SHARES / _SHARES
