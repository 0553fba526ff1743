"""The page of the figures of pages: what is said of tools that were measured, and of those that were not."""

from dataclasses import asdict, replace

import pytest

FACTS = {
    "processor": "AMD EPYC",
    "features": ["avx2", "avx512f"],
    "cores": 2,
    "date": "2026-11-29",
    "memory_bytes": 24 << 30,
    "system": "Linux 6.18",
    "python": "3.11.7",
    "load_average": 0.5,
    "conjure": "0.2.0",
    "versions": {"tensorboard": "2.21.0"},
    "settings": {"command": "make bench-web", "chromium": "156", "scale": 1.0, "runs": 20, "points": 10_000},
}


@pytest.fixture
def page(benchmark):
    """The page of figures of some tools, and of ours, as lines."""
    figures, tools, made = benchmark("web.figures"), benchmark("web.tools"), benchmark("web.page")
    whole = figures.Figures(
        write_s=30.0,
        ready_s=1.0,
        first_sight_s=2.0,
        table_paint_s=0.2,
        table_rows_s=0.3,
        curves_s=0.4,
        table_bytes=110_000,
        curves_bytes=380_000,
        foreign=["https://example.org/font.css"],
        errors=[],
    )

    def lines(rows=(), **found):
        measured = {name: asdict(replace(whole, **changes)) for name, changes in found.items()}
        ours = [figures.Row(*row) for row in rows]
        return list(made.lines(ours, measured, tools.TOOLS, FACTS))

    return lines


def test_a_tool_that_fails_is_told_with_the_reason(page):
    said = page(
        conjure={"live_s": 0.31}, Aim={"curves_s": None, "failure": "its server ended: no such module"}
    )
    assert "| | conjure | Aim |" in said
    assert "| one metric of all runs drawn | 0.40 | – |" in said
    assert "| a new point seen after it was written | 0.31 | – |" in said
    assert "- Aim: its server ended: no such module" in said


def test_hosts_beyond_the_origin_are_named(page):
    said = page(conjure={})
    assert "| requests beyond the origin | 1 |" in said
    assert "- conjure asks example.org, which was out of reach." in said


def test_figures_of_ours_stand_beside_their_goals(page):
    said = page([("zoom", 0.15, "s", 0.2), ("answer", 2500, "bytes", 2000), ("first sight", 13.2, "s", None)])
    assert "| zoom | 0.15 s | ≤ 0.20 s | yes |" in said
    assert "| answer | 2,500 bytes | ≤ 2,000 bytes | **no** |" in said
    assert "| first sight | 13 s |  |  |" in said
