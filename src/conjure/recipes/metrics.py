"""A training's progress as metrics of the run it happens in.

Main entries: `report_metrics` as it goes, `report_result` at the end. Invariant: outside a run they do
nothing.
"""

from conjure.lm.training.events import Evaluated, StepDone, TuningEvent
from conjure.lm.training.finetune import FinetuneResult
from conjure.metric_logging import log_metric


def report_metrics(event: TuningEvent) -> None:
    """Hand what an event tells to the run this process belongs to, if to any."""
    if isinstance(event, StepDone):
        if event.loss is not None:
            log_metric("loss", event.loss, step=event.step)
        log_metric("tokens_per_s", event.tokens / event.seconds, step=event.step)
        log_metric("learning_rate_factor", event.learning_rate_factor, step=event.step)
        log_metric("grad_norm", event.grad_norm, step=event.step)
    elif isinstance(event, Evaluated):
        log_metric("eval_loss", event.loss, step=event.step)


def report_result(result: FinetuneResult) -> None:
    """Hand the held-out loss of the tuned model, which is measured once, to the run."""
    if result.loss_after is not None:
        log_metric("held_out_loss", result.loss_after, step=result.best_step)
