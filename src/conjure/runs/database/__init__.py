"""The records of runs, and how they are stored."""
