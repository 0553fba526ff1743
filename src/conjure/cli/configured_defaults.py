"""Settings as the defaults of options: what was set once counts where an option is not given.

Main entry: `configured_defaults`. Invariant: inside a run only what the run records counts, so that a rerun
does the same whatever has been set since.
"""

import os
from typing import Any

from conjure.core.config import SETTINGS, Config, load_config
from conjure.core.home import Home
from conjure.metric_logging import inside_a_run
from conjure.runs.schema.spec import current_folder

_WITH_RUN_OPTIONS = ("run", "jupyter")
_SWEEPS = ("sweep", "hyper")
_SWEEP_METHODS = ("grid", "random", "tpe", "bayesian")
_WITH_A_MODEL = ("generate", "finetune", "score")


def configured_defaults(command: str) -> dict[str, Any]:
    """Defaults for a command's options, by their names, as click's `default_map` has them.

    What is set of a variable is put into this process's, for what reads that.

    Raises:
        UsageError: A file or variable sets what is not allowed.
    """
    if inside_a_run():
        return {}
    config = load_config(Home.from_environment(), current_folder())
    if command in _WITH_RUN_OPTIONS:
        return {command: config.run_options()}
    if command in _SWEEPS:
        return {command: dict.fromkeys(_SWEEP_METHODS, config.run_options())}
    _set_variables(config)
    if not config.is_set("model"):
        return {}
    model = {"model": config.values["model"]}
    served = {"models": [config.values["model"]]}
    return {"data": {"preview": model}, "serve": served, **dict.fromkeys(_WITH_A_MODEL, model)}


def _set_variables(config: Config) -> None:
    for key, setting in SETTINGS.items():
        if setting.variable is not None and config.is_set(key):
            os.environ[setting.variable] = config.values[key]
