"""The environment variables a run's command sees.

Main entry: `command_variables`. Invariant: the code's root, and ``src`` in it, come first on PYTHONPATH, so
that a repository's own package is what its scripts import.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conjure import reporting
from conjure.core.home import HOME_VARIABLE, Home
from conjure.reporting import METRICS_VARIABLE, RUN_VARIABLE
from conjure.runs.environments.environment_build import Environment
from conjure.runs.host.gpus import VISIBLE_GPUS_VARIABLE
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """Where a command runs: the code's root in the working folder, and the folder in it where it starts."""

    root: Path
    folder: Path


def command_variables(
    home: Home, record: RunRecord, place: WorkingDirectory, environment: Environment, given: Mapping[str, str]
) -> dict[str, str]:
    """All variables for a run's command: the caller's, conjure's own, and those the run was given.

    Args:
        home: Where conjure keeps things.
        record: The run.
        place: Where the command runs.
        environment: What it runs with.
        given: The run's own variables, secrets included.
    """
    variables = environment.activate({**os.environ, **given})
    variables.pop("OLDPWD", None)
    sources = place.root / "src"  # where repositories of that layout keep their packages
    callers = variables.get("PYTHONPATH", "").split(os.pathsep)
    own = [str(place.root), *([str(sources)] if sources.is_dir() else [])]
    paths = [*own, *(path for path in callers if not Path(path).is_relative_to(home.runs))]
    if "conjure" not in environment.packages:
        paths.append(str(_reporting_folder(home)))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    variables.setdefault("PYTHONUNBUFFERED", "1")
    variables["PWD"] = str(place.folder)
    variables[HOME_VARIABLE] = str(home.root)
    variables[RUN_VARIABLE] = str(record.number)
    variables[METRICS_VARIABLE] = str(RunFolder.of(home, record.number).metrics)
    if record.spec.resources.gpus is not None and record.spec.on is None:  # else the executor chooses them
        variables[VISIBLE_GPUS_VARIABLE] = ",".join(map(str, record.gpu_ids))
    return variables


def _reporting_folder(home: Home) -> Path:
    """A folder from which ``from conjure import log_metric`` works, for environments without conjure."""
    folder = home.root / "import"
    package = Path(reporting.__file__).parent
    link = folder / "conjure"
    folder.mkdir(exist_ok=True)
    if not link.is_symlink() or link.readlink() != package:
        temporary = folder / f".conjure.{os.getpid()}"
        temporary.symlink_to(package)
        temporary.replace(link)
    return folder
