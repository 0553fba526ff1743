"""Models on disk: found, read, saved, converted, exported."""
