"""Proposals: inside the space, a function of (request, trial) alone, and a grid has each cell once."""

import math

from hypothesis import given
from hypothesis import strategies as st

from conjure.sweeps.proposals import propose
from conjure.sweeps.request import SweepRequest
from conjure.sweeps.space import Choice, Range, parse_parameter
from support.sweeps import searched

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False, width=32)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters=',"\n\r\0'), min_size=1, max_size=8)


@st.composite
def ranges(draw):
    log, whole = draw(st.booleans()), draw(st.booleans())
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    if whole:
        low, high = math.floor(low), math.ceil(high)
    if log:
        low, high = abs(low) + (1 if whole else 1e-6), abs(low) + abs(high) + 2
        low, high = (math.floor(low), math.ceil(high)) if whole else (low, high)
    return Range(float(low), float(high) if high > low else float(low) + 1, log=log, whole=whole)


@given(ranges(), st.integers(0, 2**32), st.integers(0, 1000))
def test_a_drawn_value_is_in_its_range_and_the_same_again(domain, seed, trial):
    request = searched({"x": domain}, seed=seed)
    text = propose(request, trial)["x"]
    assert domain.low <= float(text) <= domain.high
    assert not domain.whole or float(text).is_integer()
    assert propose(request, trial)["x"] == text


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_a_grid_has_every_cell_once_with_its_texts_as_they_are(values):
    space = {f"p{place}": Choice(tuple(texts)) for place, texts in enumerate(values)}
    request = SweepRequest(searched(space).spec, space, "grid")
    cells = [tuple(propose(request, trial).values()) for trial in range(request.trial_count)]
    assert len(cells) == len(set(cells)) == math.prod(map(len, values))
    assert all(text in texts for cell in cells for text, texts in zip(cell, values, strict=True))


@given(st.lists(TEXTS.filter(lambda text: ":" not in text), min_size=1, max_size=5, unique=True))
def test_values_are_read_as_they_are_typed(texts):
    assert parse_parameter(f"x={','.join(texts)}") == ("x", Choice(tuple(texts)))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_repetitions_of_a_cell_differ_in_the_seed_alone(seeds, cells, seed):
    request = (
        searched(
            {"x": Range(0.0, 1.0)}, command=("true", ":x:", ":seed:"), seeds=seeds, cells=cells, seed=seed
        )
        if seeds > 1
        else searched({"x": Range(0.0, 1.0)}, cells=cells, seed=seed)
    )
    trials = [propose(request, trial) for trial in range(request.trial_count)]
    for cell in range(cells):
        some = trials[cell * seeds : (cell + 1) * seeds]
        assert len({trial["x"] for trial in some}) == 1
        assert seeds == 1 or [trial["seed"] for trial in some] == [str(n + 1) for n in range(seeds)]
