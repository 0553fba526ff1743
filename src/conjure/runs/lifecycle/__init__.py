"""A run's life: submitted, scheduled, executed, supervised, ended, recovered."""
