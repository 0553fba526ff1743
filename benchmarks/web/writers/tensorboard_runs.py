"""Writes runs as TensorBoard reads them, with tensorboardX: TensorBoard itself has no writer."""

from points import LIVE, METRICS, asked, is_live, log_lines, rows, run_name, tell
from tensorboardX import SummaryWriter

folder, runs, points = asked()
if is_live():
    with SummaryWriter(str(folder / LIVE)) as writer:

        def log(value: float, step: int) -> None:
            writer.add_scalar("loss", value, step)
            writer.flush()  # which would otherwise happen every 120 seconds

        tell(run=LIVE)
        log_lines(log)
else:
    for run in range(1, runs + 1):
        with SummaryWriter(str(folder / run_name(run))) as writer:
            for step, values in enumerate(rows(run, points)):
                for name, value in zip(METRICS, values, strict=True):
                    writer.add_scalar(name, value, step)
    tell(runs=[run_name(run) for run in range(1, runs + 1)])
