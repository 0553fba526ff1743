"""The files that runs are given and make: mounts, outputs, uploads, and their paths."""
