"""The 2019 example scripts with their original flags, run by conjure."""
