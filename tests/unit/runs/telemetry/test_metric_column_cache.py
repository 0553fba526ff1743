import itertools
import json
import math
import os
import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.telemetry import curve_downsampling, line_tail, metric_column_file
from conjure.runs.telemetry import metric_column_cache as module
from conjure.runs.telemetry.curve_downsampling import CurveRequest, draw_curve, thin
from conjure.runs.telemetry.metric_column import BUCKET, Column
from conjure.runs.telemetry.metric_column_cache import ColumnCache, MetricColumns
from conjure.runs.telemetry.metric_column_file import ColumnWriter
from conjure.runs.telemetry.metrics import MetricTail


def column_of(values, steps=None):
    column = Column()
    column.extend(list(steps or range(len(values))), list(values), [float(at) for at in range(len(values))])
    return column


def line(name, step, value, at=1.5):
    shown = json.dumps(value) if isinstance(value, str) else repr(float(value))
    return f'{{"name": {json.dumps(name)}, "step": {step}, "value": {shown}, "time": {at:.6f}}}\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    return tmp_path


def add(folder, *lines):
    with RunFolder(folder).metrics.open("a") as file:
        file.writelines(lines)


def refreshed(folder):
    columns = MetricColumns(folder)
    columns.refresh()
    return columns


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=900),
    st.integers(1, 60),
    st.lists(st.integers(0, 900), max_size=3),
)
def test_a_thinned_column_keeps_every_extreme_and_a_gap_where_there_is_one(values, parts, cuts):
    column = Column()
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(values)], strict=True):
        part = values[start:stop]
        column.extend(list(range(start, start + len(part))), part, [0.0] * len(part))
    kept = thin(column, 0, len(column), parts)
    assert kept == sorted(set(kept))
    assert len(kept) <= 5 * (parts + 2) or len(kept) == len(values)
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        drawn = [column.values[index] for index in kept if math.isfinite(column.values[index])]
        assert (min(drawn), max(drawn)) == (min(finite), max(finite))
    if len(finite) < len(values):
        assert any(not math.isfinite(column.values[index]) for index in kept)


@pytest.mark.parametrize("parts", [1, 2, 5, 7])
def test_whole_buckets_are_thinned_alike_whether_or_not_others_are_broken(parts):
    noise = random.Random(parts)
    values = [round(noise.random(), 1) for _ in range(41 * BUCKET)]
    whole = thin(column_of(values), 0, 40 * BUCKET, parts)
    assert whole == sorted(set(whole))
    column = column_of([*values[: 40 * BUCKET], *[math.nan] * BUCKET])
    width = -(-40 // parts)
    expected = [
        index
        for bucket in range(0, 40, width)
        for index in curve_downsampling._extremes_of_buckets(column, bucket, min(bucket + width, 40))
    ]
    assert whole == thin(column, 0, 40 * BUCKET, parts) == expected


def test_a_part_without_a_whole_bucket_is_thinned():
    column = column_of([float(step % 7) for step in range(300)])
    kept = thin(column, 65, 190, 1)
    assert (kept[0], kept[-1]) == (65, 189)
    assert {column.values[index] for index in kept} >= {0.0, 6.0}


def test_an_extreme_is_drawn_at_every_zoom():
    values = [0.0] * 100_000
    values[54_321] = 9.0
    column = column_of(values)
    for start, stop in ((0, 100_000), (50_000, 60_000), (54_000, 54_700), (54_300, 54_350)):
        assert 54_321 in thin(column, start, stop, 50)


def test_columns_say_what_the_file_says_however_it_grew(folder):
    expected = {"loss": [], 'odd "name" é': []}
    columns = MetricColumns(folder)
    for step in range(300):
        for name, values in expected.items():
            add(folder, line(name, step, step * 0.5))
            values.append(step * 0.5)
        if step % 70 == 0:
            columns.refresh()
    columns.refresh()
    assert columns.names() == list(expected)
    for name, values in expected.items():
        assert list(columns.column(name).values) == values
        assert list(columns.column(name).steps) == list(range(300))
        assert columns.count(name) == 300


def test_a_line_still_being_written_is_left_for_later(folder):
    add(folder, line("loss", 0, 1.0), line("loss", 1, 2.0)[:20])
    columns = refreshed(folder)
    assert columns.count("loss") == 1
    add(folder, line("loss", 1, 2.0)[20:])
    columns.refresh()
    assert list(columns.column("loss").values) == [1.0, 2.0]


def test_lines_of_another_form_cost_themselves_only(folder):
    add(folder, line("loss", 0, 1.0), "rubbish\n", '{"step": 1, "name": "loss", "value": 2, "time": 3}\n')
    assert list(refreshed(folder).column("loss").values) == [1.0, 2.0]


@pytest.mark.parametrize(
    "foreign",
    [
        b'{"name": "loss", "step": 1, "value": 1.2.3, "time": 1.5}',
        b'{"name": "loss", "step": 1, "value": 1e+-, "time": 1.5}',
        b'{"name": "loss", "step": 007, "value": 1.0, "time": 1.5}',
        b'{"name": "loss", "step": 1, "value": 01.0, "time": 1.5}',
        b'{"name": "a\\d", "step": 1, "value": 1.0, "time": 1.5}',
        b'{"name": "a\tb", "step": 1, "value": 1.0, "time": 1.5}',
        b'{"name": "caf\xe9", "step": 1, "value": 1.0, "time": 1.5}',
        b'{"name": "\\ud800", "step": 1, "value": 1.0, "time": 1.5}',
        b'{"name": "a\\u0000", "step": 1, "value": 1.0, "time": 1.5}',
    ],
)
def test_a_foreign_line_that_looks_like_ours_costs_itself_only(folder, foreign):
    with RunFolder(folder).metrics.open("wb") as file:
        file.write(line("loss", 0, 1.0).encode() + foreign + b"\n" + line("loss", 2, 2.0).encode())
    columns = refreshed(folder)
    assert columns.names() == ["loss"]
    assert list(columns.column("loss").steps) == [0, 2]
    assert [point.step for point in MetricTail(RunFolder(folder).metrics).read_all()] == [0, 2]


def test_values_that_are_not_finite_are_gaps(folder):
    add(folder, *(line("loss", step, value) for step, value in enumerate([1.0, "nan", "inf", "-inf", 2.0])))
    curve = draw_curve(refreshed(folder), "loss")
    assert list(curve.y) == [1.0, None, None, None, 2.0]
    assert curve.gaps == 3


@pytest.fixture
def kept(folder, monkeypatch):
    """A run whose columns are kept beside its metrics."""
    monkeypatch.setattr(module, "_WORTH_KEEPING_BYTES", 100)
    noise = random.Random(3)
    add(folder, *(line(name, step, noise.random()) for step in range(500) for name in ("a", "b")))
    refreshed(folder)
    assert RunFolder(folder).columns.is_file()
    return folder


def test_what_is_kept_beside_is_read_instead_of_the_points(kept, monkeypatch):
    direct = {name: list(refreshed(kept).column(name).values) for name in ("a", "b")}
    monkeypatch.setattr(module, "_points", lambda whole: pytest.fail("points were parsed"))
    columns = refreshed(kept)
    assert columns.names() == ["a", "b"]
    assert columns.count("b") == 500
    for name, values in direct.items():
        assert list(columns.column(name).values) == values
        assert thin(columns.column(name), 0, 500, 3) == thin(column_of(values), 0, 500, 3)


def test_points_after_what_is_kept_are_added(kept):
    add(kept, line("a", 500, 7.5), line("c", 0, 1.0))
    columns = refreshed(kept)
    assert columns.count("a") == 501
    assert columns.column("a").values[-1] == 7.5
    assert columns.names() == ["a", "b", "c"]


@pytest.mark.parametrize("damage", ["torn", "foreign", "rubbish"])
def test_what_is_kept_but_does_not_fit_is_made_again(kept, damage):
    expected = list(refreshed(kept).column("a").values)
    beside = RunFolder(kept).columns
    if damage == "torn":
        beside.write_bytes(beside.read_bytes()[:-5000])
    elif damage == "foreign":
        metrics = RunFolder(kept).metrics
        metrics.write_text(metrics.read_text().replace('"step": 0,', '"step": 9,'))
    else:
        beside.write_bytes(b"\0\1rubbish")
    columns = refreshed(kept)
    assert list(columns.column("a").values) == expected
    assert columns.column("a").steps[0] == (9 if damage == "foreign" else 0)


def test_another_process_may_replace_what_is_kept(kept):
    columns = refreshed(kept)
    expected = list(refreshed(kept).column("b").values)
    add(kept, *(line("0", step, 1.0) for step in range(500)))
    refreshed(kept)  # writes it anew, in another order of bytes
    assert list(columns.column("b").values)[:500] == expected


def test_new_points_are_added_once_though_what_is_kept_was_replaced(kept):
    columns = refreshed(kept)
    add(kept, *(line("0", step, 1.0) for step in range(500)))
    refreshed(kept)
    add(kept, line("a", 500, 7.5), line("b", 500, 8.5))
    columns.refresh()
    assert {name: len(columns.column(name)) for name in columns.names()} == {"a": 501, "b": 501, "0": 500}
    assert list(columns.column("a").values) == list(refreshed(kept).column("a").values)


def test_a_folder_that_takes_no_file_costs_the_cache_only(folder, monkeypatch):
    monkeypatch.setattr(module, "_WORTH_KEEPING_BYTES", 100)

    def refuse(*_, **__):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(module, "write_atomically", refuse)
    add(folder, *(line("a", step, step) for step in range(200)))
    assert refreshed(folder).count("a") == 200


def test_a_cache_lets_the_oldest_go(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        add(tmp_path / name, *(line("x", step, step) for step in range(200)))
    cache = ColumnCache(limit_bytes=6000)
    first = cache.open(tmp_path / "a")
    assert cache.open(tmp_path / "a") is first
    cache.open(tmp_path / "b")
    assert cache.open(tmp_path / "a") is not first


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.columns"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, name):
    add(folder, line("loss", 0, 1.0))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert refreshed(folder).names() == (["loss"] if name == "metrics.columns" else [])


def test_a_run_without_metrics_has_none(tmp_path):
    columns = refreshed(tmp_path)
    assert columns.names() == []
    assert draw_curve(columns, "loss").total == 0


class TestCurves:
    def columns(self, folder, *lines):
        add(folder, *lines)
        return refreshed(folder)

    def test_a_part_comes_with_its_neighbours(self, folder):
        columns = self.columns(folder, *(line("loss", step, step) for step in range(100)))
        curve = draw_curve(columns, "loss", CurveRequest(lower=10, upper=20))
        assert list(curve.x) == list(range(9, 22))
        assert (len(curve.x), curve.total, curve.points) == (13, 13, 100)

    def test_only_later_points(self, folder):
        columns = self.columns(folder, *(line("loss", step, step) for step in range(10)))
        assert list(draw_curve(columns, "loss", CurveRequest(after=7)).x) == [7, 8, 9]

    def test_over_time_from_the_start(self, folder):
        columns = self.columns(folder, *(line("loss", 0, step, at=100.0 + step) for step in range(3)))
        assert list(draw_curve(columns, "loss", CurveRequest("time", 100.0)).x) == [0.0, 1.0, 2.0]

    def test_steps_that_go_back_are_put_in_order(self, folder):
        columns = self.columns(folder, *(line("loss", step, step) for step in (5, 6, 7, 0, 1)))
        curve = draw_curve(columns, "loss")
        assert list(curve.x) == [0, 1, 5, 6, 7]
        assert list(curve.y) == [0, 1, 5, 6, 7]
        assert list(draw_curve(columns, "loss", CurveRequest(lower=1, upper=5)).x) == [0, 1, 5, 6]

    def test_over_another_metric_by_the_step_they_share(self, folder):
        lines = [line("tokens", step, 1000 - step) for step in range(4)] + [
            line("loss", step, step) for step in range(6)
        ]
        curve = draw_curve(self.columns(folder, *lines), "loss", CurveRequest("tokens"))
        assert list(curve.x) == [997, 998, 999, 1000]
        assert list(curve.y) == [3, 2, 1, 0]

    def test_smoothing_keeps_a_constant_and_the_gaps(self, folder):
        values = [2.0] * 300 + ["nan"] + [2.0] * 300
        columns = self.columns(folder, *(line("loss", step, value) for step, value in enumerate(values)))
        curve = draw_curve(columns, "loss", CurveRequest(smoothing=0.9, parts=200))
        assert set(curve.smooth) == {2.0, None}
        assert len(curve.smooth) == len(curve.y)

    def test_smoothing_forgets_by_distance(self, folder):
        values = [0.0] * 500 + [1.0] * 500
        columns = self.columns(folder, *(line("loss", step, value) for step, value in enumerate(values)))
        smooth = draw_curve(columns, "loss", CurveRequest(smoothing=0.9, parts=1000)).smooth
        assert smooth[499] == 0
        assert smooth[509] == pytest.approx(1 - 0.9**10, abs=0.02)


def test_a_bucket_whose_sum_overflows_still_knows_its_extremes():
    column = column_of([1e308, 1e308, -1e308, *[0.0] * (BUCKET - 3)])
    assert (column.lowest, column.highest, column.broken) == (
        array("q", [2]),
        array("q", [0]),
        array("q", [-1]),
    )


class TestWriter:
    """What a run's supervisor keeps while the command goes on."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch):
        monkeypatch.setattr(metric_column_file, "_PART_BYTES", 3000)
        monkeypatch.setattr(metric_column_file, "_LAST_PART_BYTES", 100)

    @pytest.fixture
    def supervised(self, folder):
        """Reports points as a command does, and takes them in as its supervisor does."""
        tail, writer = MetricTail(RunFolder(folder).metrics), ColumnWriter(folder)

        def report(*lines):
            add(folder, *lines)
            writer.add(list(tail.read_all()), tail.offset)

        report.writer = writer
        yield report
        writer.finish()

    def points(self, begin, stop, names=("a", "b"), seed=5):
        noise = random.Random(seed)
        values = [noise.choice([noise.random(), noise.random(), "nan"]) for _ in range(stop)]
        return [
            line(name, step, values[step], at=1.5 + step) for step in range(begin, stop) for name in names
        ]

    def parsed(self, folder):
        """The same columns, made of the metrics alone."""
        beside = RunFolder(folder).columns
        hidden = beside.rename(beside.with_suffix(".hidden"))
        columns = refreshed(folder)
        made = {name: columns.column(name) for name in columns.names()}
        hidden.rename(beside)
        return made

    def assert_true(self, folder):
        columns = refreshed(folder)
        expected = self.parsed(folder)
        assert columns.names() == list(expected)
        for name, column in expected.items():
            mine = columns.column(name)
            assert columns.count(name) == len(column)
            assert repr(mine) == repr(column)  # NaN equals NaN only so
        return columns

    def test_columns_are_kept_part_by_part(self, folder, supervised, monkeypatch):
        for begin in range(0, 600, 7):
            supervised(*self.points(begin, min(begin + 7, 600)))
        supervised(line("late", 3, 1.0), line("a", 2, 0.5))  # a step that goes back
        supervised.writer.finish()
        self.assert_true(folder)
        monkeypatch.setattr(module, "_points", lambda whole: pytest.fail("points were parsed"))
        columns = refreshed(folder)
        assert len(columns.column("a")) == 601
        assert not columns.column("a").steps_ascend
        assert columns.column("b").steps_ascend
        header_lines = RunFolder(folder).columns.read_bytes().count(b'"source_start"')
        assert header_lines > 5

    def test_little_is_held_in_memory(self, supervised):
        for begin in range(0, 2000, 50):
            supervised(*self.points(begin, begin + 50))
        assert all(len(column) < 200 for column, _ in supervised.writer._columns.values())

    @pytest.mark.parametrize("cut", [1, 500, 1500])
    def test_a_part_that_a_crash_cut_off_is_passed_over(self, folder, supervised, cut):
        for begin in range(0, 600, 50):
            supervised(*self.points(begin, begin + 50))
        beside = RunFolder(folder).columns
        beside.write_bytes(beside.read_bytes()[:-cut])
        self.assert_true(folder)

    def test_zeros_after_a_power_cut_are_passed_over(self, folder, supervised):
        supervised(*self.points(0, 100))
        beside = RunFolder(folder).columns
        beside.write_bytes(beside.read_bytes() + bytes(5000))
        self.assert_true(folder)

    def test_a_page_that_is_open_goes_on_while_parts_are_added(self, folder, supervised):
        supervised(*self.points(0, 100))
        columns = refreshed(folder)
        for begin in range(100, 500, 50):
            supervised(*self.points(begin, begin + 50))
            columns.refresh()
            assert columns.count("a") == begin + 50
        assert repr(columns.column("a")) == repr(self.parsed(folder)["a"])

    def test_a_page_does_not_replace_what_the_supervisor_keeps(self, folder, supervised, monkeypatch):
        monkeypatch.setattr(module, "_WORTH_KEEPING_BYTES", 6000)
        supervised(*self.points(0, 100))
        columns, inode = refreshed(folder), RunFolder(folder).columns.stat().st_ino
        for begin in range(100, 1000, 20):
            supervised(*self.points(begin, begin + 20))
            columns.refresh()
        assert RunFolder(folder).columns.stat().st_ino == inode
        self.assert_true(folder)

    def test_who_writes_it_anew_goes_on_alone(self, folder, supervised, monkeypatch):
        monkeypatch.setattr(module, "_WORTH_KEEPING_BYTES", 100)
        supervised(*self.points(0, 20))
        supervised(*self.points(20, 60))
        RunFolder(folder).columns.unlink()
        refreshed(folder)  # writes the file again
        kept = RunFolder(folder).columns.read_bytes()
        supervised(*self.points(60, 400))
        supervised.writer.finish()
        assert RunFolder(folder).columns.read_bytes() == kept
        self.assert_true(folder)

    def test_a_link_in_its_place_is_not_followed(self, folder, tmp_path_factory):
        outside = tmp_path_factory.mktemp("outside") / "file"
        outside.write_text("mine")
        RunFolder(folder).columns.symlink_to(outside)
        writer = ColumnWriter(folder)
        tail = MetricTail(RunFolder(folder).metrics)
        add(folder, *self.points(0, 100))
        writer.add(list(tail.read_all()), tail.offset)
        RunFolder(folder).columns.unlink()
        RunFolder(folder).columns.symlink_to(outside)
        add(folder, *self.points(100, 300))
        writer.add(list(tail.read_all()), tail.offset)
        writer.finish()
        assert outside.read_text() == "mine"

    def test_metrics_that_were_replaced_are_not_mixed_with_the_old_ones(self, folder, supervised):
        supervised(*self.points(0, 100))
        metrics = RunFolder(folder).metrics
        text = "".join(self.points(0, 300, seed=6))
        metrics.unlink()
        metrics.write_text(text)
        supervised()
        supervised.writer.finish()
        self.assert_true(folder)

    def test_a_full_disk_ends_the_keeping_only(self, folder, supervised, monkeypatch):
        supervised(*self.points(0, 100))

        def refuse(*_):
            raise OSError(28, "no space left on device")

        monkeypatch.setattr(metric_column_file.os, "write", refuse)
        supervised(*self.points(100, 300))
        monkeypatch.undo()
        supervised(*self.points(300, 500))
        self.assert_true(folder)

    def test_a_short_run_leaves_no_file(self, folder, supervised, monkeypatch):
        monkeypatch.setattr(metric_column_file, "_LAST_PART_BYTES", 1 << 16)
        supervised(*self.points(0, 10))
        supervised.writer.finish()
        assert not RunFolder(folder).columns.exists()


def test_reading_stops_in_time_and_goes_on_later(folder, monkeypatch):
    monkeypatch.setattr(line_tail, "_PIECE_BYTES", 2000)
    add(folder, *(line("a", step, step) for step in range(500)))
    monkeypatch.setattr(module, "monotonic", itertools.cycle([0.0, 2.0]).__next__)
    columns, seen = MetricColumns(folder), []
    while not columns.is_whole:
        columns.refresh(until=1.0)
        seen.append(columns.count("a"))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert list(columns.column("a").values) == list(range(500))
