"""The environment variables a run's command sees.

Main entries: `command_variables`, `container_variables`. Invariant: the code's root, and ``src`` in it, come
first on PYTHONPATH, so that a repository's own package is what its scripts import.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conjure import metric_logging
from conjure.core.home import HOME_VARIABLE, Home
from conjure.core.machine_limits import physical_cores
from conjure.metric_logging import METRICS_VARIABLE, RUN_VARIABLE
from conjure.runs.environments.environment_build import Environment
from conjure.runs.environments.images import Image
from conjure.runs.host.gpus import VISIBLE_GPUS_VARIABLE
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import RunSpec

_THREADS = "OMP_NUM_THREADS"  # that torch, numpy and others compute with


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
        record: The run.
        place: Where the command runs.
        environment: What it runs with.
        given: The run's own variables, secrets included.
    """
    variables = environment.activate({**os.environ, **given})
    variables.pop("OLDPWD", None)
    metric_logging_folders = [] if "conjure" in environment.packages else [metric_logging_folder(home)]
    variables |= _own_variables(home, record.number, place, variables, metric_logging_folders)
    variables["PWD"] = str(place.folder)
    if record.spec.distributed is not None:
        variables.setdefault(_THREADS, str(_threads_each(record.spec, record.spec.distributed)))
    if record.spec.resources.gpus is not None and record.spec.on is None:  # else the executor chooses them
        variables[VISIBLE_GPUS_VARIABLE] = ",".join(map(str, record.gpu_ids))
    return variables


def _threads_each(spec: RunSpec, processes: int) -> int:
    """Threads of each of the processes that share a run's cores."""
    cores = physical_cores()
    return max(1, int(min(cores, spec.resources.cpus or cores)) // processes)


def container_variables(
    home: Home, record: RunRecord, place: WorkingDirectory, image: Image, given: Mapping[str, str]
) -> dict[str, str]:
    """The variables that a run's container is given beside its image's: conjure's and the run's own.

    Args:
        record: The run.
        place: Where the command runs.
        image: What the container is made from.
        given: The run's own variables, secrets included.
    """
    variables = {**image.variables, **given}
    return {**given, **_own_variables(home, record.number, place, variables, [metric_logging_folder(home)])}


def _own_variables(
    home: Home, number: int, place: WorkingDirectory, given: Mapping[str, str], last: Iterable[Path]
) -> dict[str, str]:
    """What conjure sets for a command that is given these variables; `last` comes last on PYTHONPATH."""
    sources = place.root / "src"  # where repositories of that layout keep their packages
    callers = given.get("PYTHONPATH", "").split(os.pathsep)
    own = [str(place.root), *([str(sources)] if sources.is_dir() else [])]
    others = (path for path in callers if not Path(path).is_relative_to(home.runs))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [*own, *others, *map(str, last)])),
        "PYTHONUNBUFFERED": given.get("PYTHONUNBUFFERED", "1"),
        HOME_VARIABLE: str(home.root),
        RUN_VARIABLE: str(number),
        METRICS_VARIABLE: str(RunFolder.of(home, number).metrics),
    }


def metric_logging_folder(home: Home) -> Path:
    """A folder from which ``from conjure import log_metric`` works, for environments without conjure."""
    folder = home.importable
    package = Path(metric_logging.__file__).parent
    link = folder / "conjure"
    folder.mkdir(exist_ok=True)
    if not link.is_symlink() or link.readlink() != package:
        temporary = folder / f".conjure.{secrets.token_hex(8)}"  # process ids are not unique among nodes
        temporary.symlink_to(package)
        temporary.replace(link)
    return folder
