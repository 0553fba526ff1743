"""Earlier name of `conjure.lm.report.report_schema`, by which the documentation of 0.1 called it."""

import warnings

from conjure.lm.report.report_schema import Report, report_from_json, report_to_json

__all__ = ["Report", "report_from_json", "report_to_json"]

warnings.warn(
    "conjure.lm.report.facts is now conjure.lm.report.report_schema; the earlier name goes in 0.3",
    DeprecationWarning,
    stacklevel=2,
)
