"""Where a run's command is executed: on this machine, in a sandbox or container, or on a cluster."""
