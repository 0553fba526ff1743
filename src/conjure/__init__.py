"""conjure: cast runs, tune language models.

The public names; each is imported when it is first used, so that ``import conjure`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conjure.errors import ConjureError
    from conjure.lm.language_model import LanguageModel
    from conjure.python_api import Client
    from conjure.recipes.library import finetune, load
    from conjure.reporting import log_metric

__all__ = ["Client", "ConjureError", "LanguageModel", "finetune", "load", "log_metric"]

_HOMES = {
    "Client": "conjure.python_api",
    "ConjureError": "conjure.errors",
    "LanguageModel": "conjure.lm.language_model",
    "finetune": "conjure.recipes.library",
    "load": "conjure.recipes.library",
    "log_metric": "conjure.reporting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'conjure' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
