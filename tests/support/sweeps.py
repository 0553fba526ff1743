"""Sweeps for tests."""

from pathlib import Path

from conjure.runs.schema.spec import CodeChoice, RunSpec
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice


def grid(count: int, command: tuple[str, ...] = ("true", ":x:"), **more) -> SweepRequest:
    """A grid over one parameter x with so many values, which needs no code."""
    spec = RunSpec(command=command, folder=Path.cwd(), code=CodeChoice(none=True))
    return SweepRequest(spec, {"x": Choice(tuple(map(str, range(count))))}, "grid", **more)


def searched(space, method="random", command=None, **more) -> SweepRequest:
    """A random search, or another, over a space."""
    words = command if command is not None else ("true", *(f":{name}:" for name in space))
    spec = RunSpec(command=words, folder=Path("/"), code=CodeChoice(none=True))
    return SweepRequest(spec, space, method, **{"cells": 20, **more})
