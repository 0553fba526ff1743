from conjure.runs.schema.run_folder import METRICS_FILE
from conjure.runs.telemetry.metrics import MetricTail, Point, Summary, metric_summaries, read_points

LINE = '{"name": "%s", "step": %d, "value": %r, "time": 1.5}\n'


def test_points_are_read_in_order_and_by_name(tmp_path):
    (tmp_path / METRICS_FILE).write_text(
        LINE % ("loss", 0, 2.0) + LINE % ("acc", 0, 0.5) + LINE % ("loss", 1, 1.0)
    )
    assert read_points(tmp_path, ["loss"]) == [Point("loss", 0, 2.0, 1.5), Point("loss", 1, 1.0, 1.5)]
    assert len(read_points(tmp_path)) == 3


def test_a_missing_file_has_no_points(tmp_path):
    assert read_points(tmp_path) == []


def test_a_line_waits_for_its_end(tmp_path):
    path = tmp_path / METRICS_FILE
    line = (LINE % ("loss", 0, 2.0)).encode()
    tail = MetricTail(path)
    for end in range(1, len(line)):
        path.write_bytes(line[:end])
        assert list(tail.read()) == []
    path.write_bytes(line)
    assert [point.value for point in tail.read()] == [2.0]
    assert list(tail.read()) == []


def test_foreign_and_torn_lines_cost_themselves_only(tmp_path):
    bad = [
        "not json",
        '{"name": "x"}',
        "[1]",
        '{"name": "x", "step": 0, "value": NaN, "time": 1}',
        '{"name": "x", "step": 1e400, "value": 1, "time": 1}',
        '{"name": "", "step": 0, "value": 1, "time": 1}',
        '{"name": "x", "step": 99999999999999999999, "value": 1, "time": 1}',
        "\x00\x01",
        '{"name": "x", "st',
    ]
    (tmp_path / METRICS_FILE).write_text("\n".join(bad) + "\n" + LINE % ("good", 3, 1.0))
    assert [point.name for point in read_points(tmp_path)] == ["good"]


def test_a_line_without_end_does_not_stop_what_follows(tmp_path):
    with (tmp_path / METRICS_FILE).open("wb") as file:
        file.truncate(40_000_000)
        file.seek(0, 2)
        file.write(b"\n" + (LINE % ("good", 3, 1.0)).encode())
    assert [point.name for point in read_points(tmp_path)] == ["good"]


def test_summaries_add_up_over_pieces():
    points = [Point("x", step, value, 0.0) for step, value in enumerate([3.0, -1.0, 2.0])]
    whole = metric_summaries(points)
    assert whole == {"x": Summary("x", 3, 2, 2.0, -1.0, 3.0)}
    assert metric_summaries(points[1:], metric_summaries(points[:1]).values()) == whole
