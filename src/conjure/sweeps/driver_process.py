"""The process that drives a sweep: there until the sweep and its trials have ended.

Main entry: `main` (``python -m conjure.sweeps.driver_process SWEEP LOCK``); `control` starts it.
"""

import json
import os
import sys

from conjure.core.home import Home
from conjure.runs.executors.forking import ForkingExecutor
from conjure.runs.host.process_control import set_name
from conjure.runs.lifecycle.supervisor import become_supervisor
from conjure.sweeps.control import SweepLock, settler_lock
from conjure.sweeps.driver import Driver
from conjure.sweeps.request import SweepRequest

_NAME = "conjure-sweep"


def main() -> None:
    """Leave the caller behind, and drive the sweep.

    The lock whose descriptor is given is held by this process until the sweep has ended, or it dies.
    """
    number, lock = map(int, sys.argv[1:])
    asked = json.load(sys.stdin)
    request = SweepRequest.from_dict(asked["request"])
    if os.fork():
        os._exit(0)  # the caller waits for this alone
    set_name(_NAME)
    home = Home.from_environment()
    with ForkingExecutor(home, become_supervisor) as executor:
        driver = Driver(home, number, request, executor, retry_failed=asked["retry_failed"])
        if driver.run():
            return
        settler = SweepLock.take_if_free(settler_lock(home, number))
        os.close(lock)  # after that: who looks on sees at each moment that somebody settles trials
        if settler is not None:
            driver.settle_rest()


if __name__ == "__main__":
    main()
