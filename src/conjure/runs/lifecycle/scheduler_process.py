"""The process that starts queued runs: there while runs wait, and no longer.

Main entry: `main` (``python -m conjure.runs.lifecycle.scheduler_process LOCK``); `scheduler_start` starts it.
"""

import os
import signal
import sys

from conjure.runs.host.cgroup import leave_cgroup
from conjure.runs.host.process_control import set_name
from conjure.runs.scheduling.scheduler_start import SCHEDULER_NAME, WAKE_SIGNAL, SchedulerLock


def main() -> None:
    """Leave the caller behind, and start what waits."""
    lock = SchedulerLock(int(sys.argv[1]))
    known, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os.read(known, 1)  # until our child can be told from what a run, which we may be part of, leaves
        os._exit(0)  # the caller waits for this alone
    leave_cgroup()
    # Before anybody can know us: a signal that comes early waits, and ends nothing.
    signal.pthread_sigmask(signal.SIG_SETMASK, {WAKE_SIGNAL, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    set_name(SCHEDULER_NAME)
    lock.write_holder()
    os.close(known)
    os.close(tell)
    # What it imports takes a while, which the caller need not wait for.
    from conjure.runs.lifecycle.scheduler_loop import serve_queue

    serve_queue(lock)


if __name__ == "__main__":
    main()
