"""Which runs wait for resources, and when each may start: the queue of a machine."""
