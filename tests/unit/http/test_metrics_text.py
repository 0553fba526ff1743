"""Metrics as Prometheus reads them."""

from conjure.http.metrics_text import Metrics


def _metrics():
    metrics = Metrics("conjure:")
    metrics.counter("requests_total", "Requests.")
    metrics.histogram("seconds", "How long.", [0.1, 1])
    metrics.gauge("running", "Now.", lambda: {(("model", "a"),): 2.0})
    return metrics


def test_counters_gauges_and_histograms():
    metrics = _metrics()
    metrics.add("requests_total", model="a")
    metrics.add("requests_total", 2, model='b "\\\n')
    for value in (0.05, 0.1, 0.5, 7):
        metrics.observe("seconds", value, model="a")
    assert metrics.render().splitlines() == [
        "# HELP conjure:requests_total Requests.",
        "# TYPE conjure:requests_total counter",
        'conjure:requests_total{model="a"} 1',
        'conjure:requests_total{model="b \\"\\\\\\n"} 2',
        "# HELP conjure:seconds How long.",
        "# TYPE conjure:seconds histogram",
        'conjure:seconds_bucket{model="a",le="0.1"} 2',
        'conjure:seconds_bucket{model="a",le="1"} 3',
        'conjure:seconds_bucket{model="a",le="+Inf"} 4',
        'conjure:seconds_sum{model="a"} 7.65',
        'conjure:seconds_count{model="a"} 4',
        "# HELP conjure:running Now.",
        "# TYPE conjure:running gauge",
        'conjure:running{model="a"} 2',
    ]
    assert metrics.total("requests_total") == 3


def test_nothing_counted_yet_is_no_fault():
    metrics = _metrics()
    assert metrics.total("requests_total") == 0
    assert "requests_total{" not in metrics.render()
