"""The Python environments of runs."""
