"""What a run tells while it runs: logs and metrics."""
