"""Writes runs with Aim, without its records of the system and the terminal."""

import aim
from points import LIVE, METRICS, PROJECT, asked, is_live, log_lines, params, rows, run_name, tell

folder, runs, points = asked()


def started(name: str) -> aim.Run:
    """A run of the project."""
    run = aim.Run(
        repo=str(folder),
        experiment=PROJECT,
        system_tracking_interval=None,
        log_system_params=False,
        capture_terminal_logs=False,
    )
    run.name = name
    return run


if is_live():
    live = started(LIVE)
    tell(run=live.hash)
    log_lines(lambda value, step: live.track(value, name="loss", step=step))
    live.close()
else:
    written = []
    for number in range(1, runs + 1):
        run = started(run_name(number))
        run["hparams"] = params(number)
        for step, values in enumerate(rows(number, points)):
            run.track(dict(zip(METRICS, values, strict=True)), step=step)
        run.close()
        written.append(run.hash)
    tell(runs=written)
