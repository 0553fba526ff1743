"""Generation as a service: many requests at once on one model, each answered as if it were alone."""
