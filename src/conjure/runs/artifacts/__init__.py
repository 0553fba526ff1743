"""The files that runs use and make: mounts, outputs, uploads, and their paths."""
