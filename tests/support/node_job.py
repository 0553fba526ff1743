"""A job on a node of a cluster, as a process of its own, with a team that has no servers.

python -m support.node_job FOLDER_OF_TEAM HOME NUMBER ATTEMPT
"""

import sys
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.runs.lifecycle.first_node import main_on_first_node
from support.local_teams import LocalTeam


def main() -> None:
    """Supervise the run, and note that its record in the store is to be brought up to date."""
    folder, root, number, attempt = sys.argv[1:]
    team = LocalTeam(Path(folder), pytest.MonkeyPatch())
    team.index.changed.add(int(number))
    main_on_first_node(Home(Path(root)), int(number), int(attempt))


if __name__ == "__main__":
    main()
