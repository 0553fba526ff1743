"""Writes runs with conjure, each a run of train.py, which logs from inside."""

import os
import shutil
import sys
from pathlib import Path

from points import LIVE, PROJECT, asked, is_live, params, run_name, tell

from conjure import Client
from conjure.python_api import Run

HERE = Path(__file__).parent

folder, runs, points = asked()
code = folder / "code"
client = Client(folder / "home")


def started(run: int, name: str, then: str) -> Run:
    """A run of train.py."""
    return client.run(
        f"python train.py --lr :lr: --batch-size :batch_size: {then}",
        description=name,
        project=PROJECT,
        params=params(run),
        folder=code,
        cpus=1,
    )


if is_live():
    pipe = folder / "live.pipe"
    os.mkfifo(pipe)
    live = started(1, LIVE, f"{LIVE} < {pipe}")
    with pipe.open("w") as lines:
        next(line for line in live.logs(follow=True) if "ready" in line)
        tell(run=live.number)
        tell(ready=True)
        for line in sys.stdin:
            lines.write(line)
            lines.flush()
    live.wait(check=True)
else:
    code.mkdir()
    for name in ("points.py", "train.py"):
        shutil.copy(HERE / name, code)
    written = [started(run, run_name(run), f"{run} {points}") for run in range(1, runs + 1)]
    for run in written:
        run.wait(check=True)
    tell(runs=[run.number for run in written])
