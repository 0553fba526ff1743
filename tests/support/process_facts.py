"""What a program finds of its own process, as JSON; then it ends as its first word says.

python -m support.process_facts END
"""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conjure.runs.host.process_settings import ProcessSettings


def main() -> object:
    """Tell, and end so."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    streams = (sys.stdin, sys.stdout, sys.stderr)
    facts = {
        "signals": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt")},
        "threads": status["Threads"],
        "settings": repr(ProcessSettings.of_this_process()),
        "descriptors": sorted(map(kind, Path("/proc/self/fd").iterdir())),
        "streams": [(each.encoding, each.errors, each.line_buffering) for each in streams],
        "arguments": sys.argv[1:],
        "variables": dict(os.environ),
        "folder": str(Path.cwd()),
        "input": sys.stdin.read(),
        "is_main_thread": threading.current_thread() is threading.main_thread(),
    }
    print(json.dumps(facts), flush=True)  # a signal ends it at once
    return ENDS[sys.argv[1]]()


def kind(descriptor: Path) -> str:
    """What a descriptor is of, without the number that the system gave it."""
    try:
        return str(descriptor.readlink()).partition("[")[0]
    except FileNotFoundError:  # it was the listing's own
        return ""


def _leave_a_thread() -> None:
    pool = ThreadPoolExecutor(1)  # not shut down: the interpreter does
    pool.submit(print, "from a thread")


def _fail() -> None:
    raise ValueError("no such end")


def _interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


ENDS = {
    "none": lambda: None,
    "number": lambda: 66,
    "exit": lambda: sys.exit(3),
    "message": lambda: sys.exit("a message"),
    "exception": _fail,
    "signal": _interrupt,
    "thread": _leave_a_thread,
}

if __name__ == "__main__":
    sys.exit(main())
