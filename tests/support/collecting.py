"""Run as a program: saves a run's outputs slowly enough to be killed in the middle.

Arguments: working folder, file that `Before.save` wrote, outputs folder.
"""

import sys
from pathlib import Path

from conjure.runs import outputs
from conjure.runs.folders import Folder


def main() -> None:
    """Collect, one file after the other."""
    workdir, before, destination = map(Path, sys.argv[1:])
    destination.mkdir(exist_ok=True)
    with Folder.open(workdir) as work, Folder.open(destination) as kept:
        outputs.collect(work, outputs.Before.load(before), kept).save(destination.parent / "manifest.json")


if __name__ == "__main__":
    main()
