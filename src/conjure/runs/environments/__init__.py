"""The Python environments that runs get."""
