"""What code inside a run calls to report how it is doing.

Main entry: `log_metric`. Invariant: it never raises and never blocks; outside a run it does nothing.
"""
