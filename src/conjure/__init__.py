"""conjure: cast runs, tune language models.

The public names; each is imported when it is first used, so that ``import conjure`` costs nothing.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conjure.errors import ConjureError
    from conjure.lm.language_model import LanguageModel
    from conjure.metric_logging import log_metric
    from conjure.python_api import Client
    from conjure.recipes.model_api import finetune, load
    from conjure.sweeps.space import log_uniform, uniform

__all__ = [
    "Client",
    "ConjureError",
    "LanguageModel",
    "finetune",
    "load",
    "log_metric",
    "log_uniform",
    "uniform",
]

_HOMES = {
    "Client": "conjure.python_api",
    "ConjureError": "conjure.errors",
    "LanguageModel": "conjure.lm.language_model",
    "finetune": "conjure.recipes.model_api",
    "load": "conjure.recipes.model_api",
    "log_metric": "conjure.metric_logging",
    "log_uniform": "conjure.sweeps.space",
    "uniform": "conjure.sweeps.space",
}
# What is missing elsewhere: /proc to follow processes by, O_PATH to hold folders by. None where it is there.
UNSUPPORTED = (
    None
    if sys.platform.startswith("linux")
    else f"conjure needs Linux (on Windows, WSL 2); this is {sys.platform}"
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'conjure' has no attribute {name!r}")
    if UNSUPPORTED is not None:
        raise ImportError(UNSUPPORTED)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
