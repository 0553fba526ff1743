"""Sweeps: many runs of one command with other values of its parameters, and which of them is best."""
