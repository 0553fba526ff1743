"""``python -m conjure`` is the `conjure` command, and so is the installed program.

Main entry: `main`. Invariant: a ^C ends the command quietly from the first moment on: until there is somebody
to catch it, the system's own way of ending a process is right.
"""

import signal
import sys

from conjure import UNSUPPORTED


def main() -> None:
    """Entry point of the installed command."""
    if UNSUPPORTED is not None:
        sys.exit(f"error: {UNSUPPORTED}")
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not, in the background of a shell
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from conjure.cli.main import main as run  # its import takes long enough for a ^C to come

    run(interrupts=heard)


if __name__ == "__main__":
    main()
