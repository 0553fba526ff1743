"""This machine: processes, what they use, GPUs, capacity."""
