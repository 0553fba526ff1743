"""Training by several processes: how a sum is made that does not know their number, and how they talk."""
