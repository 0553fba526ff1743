"""A thinned metric is the metric, only with fewer points."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from conjure.cli.plots import Series, thin

_VALUES = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0])


@given(
    points=st.lists(st.tuples(st.integers(-(1 << 62), 1 << 62), _VALUES), min_size=1, max_size=300),
    parts=st.integers(1, 40),
)
def test_thinning_keeps_order_ends_and_extremes(points: list[tuple[int, float]], parts: int) -> None:
    series = Series(array("q", [step for step, _ in points]), array("d", [value for _, value in points]))
    thinned = thin(series, parts)
    kept = list(zip(thinned.steps, thinned.values, strict=True))
    assert len(kept) <= max(4 * parts, 0) or kept == points
    remaining = iter(points)
    assert all(point in remaining for point in kept)  # in order: each is found after the one before
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(thinned.values) == min(series.values)
    assert max(thinned.values) == max(series.values)
