"""Writes runs with MLflow, a thousand points at a time, which is the most it takes."""

import time

import mlflow
from mlflow.entities import Metric
from points import LIVE, METRICS, PROJECT, asked, curve, is_live, log_lines, params, run_name, tell

_MOST = 1000

folder, runs, points = asked()
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
experiment = mlflow.set_experiment(PROJECT).experiment_id
if is_live():
    with mlflow.start_run(run_name=LIVE) as started:
        tell(run=started.info.run_id, experiment=experiment)
        log_lines(lambda value, step: mlflow.log_metric("loss", value, step=step))
else:
    written = []
    client = mlflow.MlflowClient()
    for run in range(1, runs + 1):
        with mlflow.start_run(run_name=run_name(run)) as started:
            mlflow.log_params(params(run))
            written.append(started.info.run_id)
            for place, name in enumerate(METRICS):
                now = int(time.time() * 1000)
                logged = [
                    Metric(name, value, now + step, step)
                    for step, value in enumerate(curve(run, place, points))
                ]
                for start in range(0, points, _MOST):
                    client.log_batch(started.info.run_id, metrics=logged[start : start + _MOST])
    tell(runs=written, experiment=experiment)
