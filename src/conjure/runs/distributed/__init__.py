"""Commands of several processes that work together: on one machine, or on several nodes of a cluster."""
