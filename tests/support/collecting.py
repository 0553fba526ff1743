"""Run as a program: saves a run's outputs slowly enough to be killed in the middle.

Arguments: working folder, file that `Before.save` wrote, outputs folder.
"""

import sys
from pathlib import Path

from conjure.runs import outputs


def main() -> None:
    """Collect, one file after the other."""
    workdir, before, destination = map(Path, sys.argv[1:])
    outputs.collect(workdir, outputs.Before.load(before), destination).save(
        destination.parent / "manifest.json"
    )


if __name__ == "__main__":
    main()
