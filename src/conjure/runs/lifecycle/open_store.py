"""Opening the store of runs, as every command does.

Main entry: `open_store`. Invariant: in a store that was opened so, a run of this machine that goes on has a
supervisor that lives.
"""

from conjure.core.home import Home
from conjure.runs.database.base import Database
from conjure.runs.database.open_database import open_database
from conjure.runs.lifecycle.abandoned_runs import mark_abandoned
from conjure.runs.scheduling.scheduler_start import end_scheduler, ensure_scheduler


def open_store(home: Home, *, must_exist: bool = False) -> Database:
    """The store, with every run that its supervisor left behind closed first: what is then read is true.

    Where runs wait and the process that starts them is gone, another is started.

    Args:
        must_exist: As `open_database` has it.

    Raises:
        StoreError: The home or its database cannot be used.
    """
    store = open_database(home, must_exist=must_exist)
    try:
        if store.was_upgraded:
            end_scheduler(home)  # it is older, cannot open the database any more, and would hold its place
        mark_abandoned(store)
        ensure_scheduler(store)
    except BaseException:
        store.close()
        raise
    return store
