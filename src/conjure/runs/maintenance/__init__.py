"""Keeping a home in order: removing, pruning, checking."""
