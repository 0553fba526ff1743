"""Writes runs with trackio; its folder is in TRACKIO_DIR."""

import trackio
from points import LIVE, METRICS, PROJECT, asked, is_live, log_lines, params, rows, run_name, tell

_, runs, points = asked()


if is_live():
    trackio.init(project=PROJECT, name=LIVE, auto_log_gpu=False, embed=False)
    tell(run=LIVE)
    log_lines(lambda value, step: trackio.log({"loss": value}, step=step))
    trackio.finish()
else:
    for run in range(1, runs + 1):
        trackio.init(project=PROJECT, name=run_name(run), config=params(run), auto_log_gpu=False, embed=False)
        for step, values in enumerate(rows(run, points)):
            trackio.log(dict(zip(METRICS, values, strict=True)), step=step)
        trackio.finish()
    tell(runs=[run_name(run) for run in range(1, runs + 1)])
