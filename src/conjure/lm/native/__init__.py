"""The native engine: a decode step in C, compiled where there is a compiler."""

from conjure.lm.native.library import Status, describe, status

__all__ = ["Status", "describe", "status"]
