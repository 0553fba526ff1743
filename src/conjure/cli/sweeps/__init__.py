"""What `conjure sweep` shares: reading what a trial is, and showing sweeps."""
