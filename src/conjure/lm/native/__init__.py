"""The native engine: a whole decode step in one small C source, built where there is a compiler."""

from conjure.lm.native.library import Status, describe, status

__all__ = ["Status", "describe", "status"]
