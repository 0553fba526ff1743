"""Earlier name of `conjure.metric_logging`.

A program that was started under 0.1, which imports this when it first calls `log_metric`, finds it here after
an upgrade.
"""

import warnings

from conjure.metric_logging import log_metric

__all__ = ["log_metric"]

warnings.warn(
    "conjure.reporting is now conjure.metric_logging; the earlier name goes in 0.3",
    DeprecationWarning,
    stacklevel=2,
)
