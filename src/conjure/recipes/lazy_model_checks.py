"""Checks whose packages most callers do without: they are imported when there is something to check.

Main entries: `load_request_checks`, `changed_model_notes`, `refuse_changed_models`. Invariant: for a run that
used no model nothing is imported; where the packages are not installed it cannot be told whether a model is
the same, and nothing is said.
"""

from collections.abc import Iterable
from types import ModuleType

from conjure.core.home import Home
from conjure.recipes.used_models import named_models
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.record import RunRecord


def load_request_checks() -> ModuleType:
    """What checks the requests of recipes."""
    # It imports numpy and tokenizers, which the rest of a client does without.
    from conjure.recipes import request_checks

    return request_checks


def changed_model_notes(home: Home, number: int) -> list[str]:
    """What to say before a run is repeated: a sentence for each model that is another one now.

    Raises:
        NotFoundError: There is no such run.
    """
    with open_store(home) as store:
        record = store.get(number)
    checks = _checks_of_models([record])
    return checks.changed_model_notes(home, record) if checks is not None else []


def refuse_changed_models(home: Home, sweep: int, trials: Iterable[RunRecord]) -> None:
    """Refuse to add trials to a sweep whose model is another one now: they could not be compared.

    Args:
        sweep: Number of the sweep.
        trials: The runs of its trials so far.

    Raises:
        UsageError: It is.
    """
    records = list(trials)
    checks = _checks_of_models(records)
    if checks is not None:
        checks.refuse_changed_trials(home, sweep, records)


def _checks_of_models(records: Iterable[RunRecord]) -> ModuleType | None:
    """What checks the models of runs; None where none has any, or its packages are not installed."""
    if not any(map(named_models, records)):
        return None
    try:
        return load_request_checks()
    except ModuleNotFoundError:
        return None
