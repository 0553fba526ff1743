"""A training's progress as metrics of the run it happens in.

Main entry: `report_metrics`. Invariant: outside a run it does nothing.
"""

from conjure.lm.training.events import Evaluated, StepDone
from conjure.reporting import log_metric


def report_metrics(event: object) -> None:
    """Hand what an event tells to the run this process belongs to, if to any."""
    if isinstance(event, StepDone):
        log_metric("loss", event.loss, step=event.step)
        log_metric("tokens_per_s", event.targets / event.seconds, step=event.step)
        log_metric("learning_rate_factor", event.learning_rate_factor, step=event.step)
        log_metric("grad_norm", event.grad_norm, step=event.step)
    elif isinstance(event, Evaluated):
        log_metric("held_out_loss", event.loss, step=event.step)
