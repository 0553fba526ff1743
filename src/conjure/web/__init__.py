"""Pages of runs in a browser: `conjure web`."""
