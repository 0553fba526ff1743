"""The code of runs: listed, stored, checked out."""
