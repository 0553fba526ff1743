"""Run as a program: saves a run's outputs slowly enough to be killed in the middle.

Arguments: working folder, file that `Baseline.save` wrote, outputs folder.
"""

import sys
from pathlib import Path

from conjure.core.dir_fd import Folder
from conjure.runs.artifacts import outputs


def main() -> None:
    """Collect, one file after the other."""
    workdir, baseline, destination = map(Path, sys.argv[1:])
    destination.mkdir(exist_ok=True)
    with Folder.open(workdir) as work, Folder.open(destination) as kept:
        collected = outputs.collect(work, outputs.Baseline.load(baseline), kept)
        collected.manifest.save(destination.parent / "manifest.json")


if __name__ == "__main__":
    main()
