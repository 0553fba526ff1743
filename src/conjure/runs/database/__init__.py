"""What is known of runs: the records and how they are stored."""
