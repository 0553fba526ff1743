"""A training in this process: planned, shown as it goes on, measured, reported.

Main entries: `show_plan`, `train`. Invariant: the first ^C or SIGTERM saves and stops, the
second ends it at once.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import click

from conjure.cli.language_model.training_view import (
    MeasuringView,
    TrainingView,
    plan_lines,
    result_json,
    result_lines,
)
from conjure.cli.render import StatusLine, note, write_json
from conjure.core.home import Home
from conjure.core.stop_signals import stopping_in_order
from conjure.core.units import format_size
from conjure.lm.hardware import pick_device
from conjure.lm.training.base_model_comparison import measure
from conjure.lm.training.distributed.process_group import ProcessGroup, join
from conjure.lm.training.events import TuningEvent
from conjure.lm.training.finetune import FinetuneResult, finish, run_training
from conjure.lm.training.preparation import Prepared, prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.metric_logging import RUN_VARIABLE
from conjure.recipes.comparison_inputs import base_trainings
from conjure.recipes.metrics import report_metrics, report_result
from conjure.recipes.resource_lookup import model_lookup


def show_plan(request: FinetuneRequest, *, as_json: bool) -> int:
    """Print what would be trained; the exit status."""
    plan = _prepared(request, writes=False).plan
    if as_json:
        write_json(plan.to_dict())
    else:
        for line in plan_lines(plan):
            click.echo(line)
    return 0


def _prepared(request: FinetuneRequest, *, writes: bool = True) -> Prepared:
    with StatusLine() as status:
        return prepare(
            request,
            lookups=[model_lookup],
            progress=lambda done, total: status.show(_reading(done, total)),
            writes=writes,
        )


def _reading(done: int, total: int) -> str:
    """How far reading is, by the bytes of text read and of the files; compressed ones hold more than that."""
    if done == total:
        return "Comparing records…"
    return f"Reading text… {format_size(done) if done > total else f'{done / total:.0%}'}"


def train(request: FinetuneRequest, *, as_json: bool) -> int:
    """Train, and print what changed; the exit status."""
    group = join(request.processes, pick_device)
    with group.told_once():
        return _lead(request, group, as_json=as_json) if group.leads else _follow(request, group)


def _follow(request: FinetuneRequest, group: ProcessGroup) -> int:
    """Train as one of the processes that print and write nothing; the exit status."""
    leader = group.settings_of_leader()
    assert leader is not None
    if request.chat_date is None:  # it may be tomorrow here by now
        request = replace(request, chat_date=leader["chat_date"])
    request = replace(request, block_size=leader["block_size"])  # which may depend on the memory there
    prepared = prepare(request, lookups=[model_lookup], micro_batch=leader["micro_batch"])
    prepared = prepared.without_base_weights()  # which are not in the memory that the plan counts
    with stopping_in_order(quiet=True) as signals:
        run_training(prepared, should_stop=lambda: bool(signals), group=group)
    return 0  # a stop was in order: what came of it, the first process tells


def _lead(request: FinetuneRequest, group: ProcessGroup, *, as_json: bool) -> int:
    """Train as the only process, or the first of several; the exit status."""
    prepared = _prepared(request)
    for line in plan_lines(prepared.plan):
        note(line)

    with stopping_in_order() as signals, TrainingView(prepared.plan) as view:

        def show(event: TuningEvent) -> None:
            report_metrics(event)
            view.show(event)

        trained = run_training(prepared, on_event=show, should_stop=lambda: bool(signals), group=group)
    comparison = report = None
    if not trained.interrupted:
        note("Measuring both models…")
        with MeasuringView() as measuring:
            known = base_trainings(Home.from_environment(), request.model)
            comparison = measure(prepared, trained, measuring.show, base_trainings=known)
    result = FinetuneResult.of(prepared, trained, comparison)
    report_result(result)
    if comparison is not None:
        note("Writing the report…")
        number = os.environ.get(RUN_VARIABLE)
        report = finish(
            prepared,
            trained,
            comparison,
            Path.cwd() if number is not None else result.checkpoint,
            run=int(number) if number is not None else None,
        )
    if as_json:
        write_json(result_json(result, report))
    else:
        for line in result_lines(result, report):
            click.echo(line)
    if not trained.interrupted:
        return 0
    return 128 + (signals[0] if signals else signal.SIGTERM)  # which another of the processes was sent
