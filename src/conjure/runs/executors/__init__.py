"""Where a run's command is carried out: this machine, later others."""
