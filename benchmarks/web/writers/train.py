"""Logs the points of one run, inside a run of conjure: `conjure_runs` starts it."""

import sys

from points import LIVE, METRICS, log_lines, rows

import conjure

words = sys.argv[5:]  # after --lr and --batch-size
if words == [LIVE]:
    log_lines(lambda value, step: conjure.log_metric("loss", value, step))
else:
    run, points = map(int, words)
    for step, values in enumerate(rows(run, points)):
        for name, value in zip(METRICS, values, strict=True):
            conjure.log_metric(name, value, step)
