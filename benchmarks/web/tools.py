"""The tools that are measured beside each other: how each is written to, served and looked at.

Main entry: `TOOLS`. Invariant: each is used as its documentation says, with its default settings; where a
page only reloads itself after a setting was changed, it is changed.
"""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

BENCHMARKS = Path(__file__).resolve().parents[1]
PEERS = BENCHMARKS / ".venv-web" / "bin"
WRITERS = BENCHMARKS / "web" / "writers"
METRIC = "loss"
# No tool is to talk to anybody beyond this machine.
_QUIET = {
    "AIM_UI_TELEMETRY_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Written:
    """What a writer told of what it wrote.

    Attributes:
        runs: How the tool names the runs.
        experiment: What they belong to, where there is such a thing.
    """

    runs: Sequence[Any]
    experiment: str = ""

    @property
    def names(self) -> Mapping[str, str]:
        """What stands in the addresses of pages."""
        return {
            "experiment": self.experiment,
            "runs": ",".join(map(str, self.runs)),
            "runs_as_json": quote(json.dumps(self.runs)),
        }


@dataclass(frozen=True)
class Tool:
    """A tool; commands, variables and addresses hold names in braces.

    Attributes:
        name: As tables show it.
        writer: The script that writes runs with it.
        command: Its server's; ``{folder}`` is where the runs are, ``{port}`` where it is to listen.
        table: The page with the table of runs.
        curves: The page with one metric of all runs, which ``{runs}`` names.
        rows: Selector of the rows of the table.
        plot: Selector of the chart.
        drawn: How many of a run's points it draws, as its answers show.
        live: The page to watch ``{run}`` on; `curves` if empty.
        variables: Of the environment, of both writer and server.
        python: What runs the writer.
        live_note: What was set so that the page reloads itself.
        storage: What was set in the browser for that.
        package: What its version is told of; ours is told elsewhere.
        has_token: Whether its server prints an address with a token, without which it shows nothing.
    """

    name: str
    writer: str
    command: Sequence[str]
    table: str
    curves: str
    rows: str
    plot: str
    drawn: str
    live: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    python: Path = PEERS / "python"
    live_note: str = ""
    storage: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    has_token: bool = False

    def server(self, folder: Path, port: int) -> list[str]:
        """The command of its server."""
        return [word.format(folder=folder, port=port) for word in self.command]

    def environment(self, folder: Path, port: int = 0) -> dict[str, str]:
        """Variables that its writer and its server find."""
        given = {name: text.format(folder=folder, port=port) for name, text in self.variables.items()}
        return {**_QUIET, **given}


def aim_state(state: Mapping[str, Any]) -> str:
    """A state as Aim writes it into addresses and into the browser's storage."""
    text = quote(json.dumps(state, separators=(",", ":")), safe=";,/?:@&=+$!~*'()#")
    return "O-" + base64.b64encode(text.encode()).decode().rstrip("=")


_AIM_QUERY = aim_state(
    {"options": [], "query": "", "advancedMode": True, "advancedQuery": f'metric.name == "{METRIC}"'}
)
_LISTEN = ("--host", "127.0.0.1", "--port", "{port}")
_CONJURE = Tool(
    name="conjure",
    writer="conjure_runs.py",
    command=(sys.executable, "-m", "conjure", "web", "--no-open", "--port", "{port}"),
    table="/runs",
    curves=f"/compare?runs={{runs}}&show={METRIC}",
    live="/runs/{run}",
    rows="[data-runs] tbody tr",
    plot="figure:not([hidden]) .plot",
    drawn="lowest and highest of each pixel",
    variables={"CONJURE_HOME": "{folder}/home"},
    python=Path(sys.executable),
    has_token=True,
)
_TENSORBOARD = Tool(
    name="TensorBoard",
    writer="tensorboard_runs.py",
    command=(str(PEERS / "tensorboard"), "--logdir", "{folder}", *_LISTEN),
    table="/",
    curves=f"/?tagFilter={quote(f'^{METRIC}$')}#timeseries",
    rows="tb-data-table-content-row",
    plot="scalar-card line-chart",
    drawn="1,000 at random",
    live_note="with “Reload data” on, which is off by default",
    storage={"_tb_global_settings": json.dumps({"autoReload": True})},
    package="tensorboard",
)
_TENSORBOARD_WHOLE = replace(
    _TENSORBOARD,
    name="TensorBoard (all points)",
    command=(*_TENSORBOARD.command, "--samples_per_plugin", "scalars=10000"),
    drawn="all",
    package="",
)
_MLFLOW = Tool(
    name="MLflow",
    writer="mlflow_runs.py",
    command=(
        str(PEERS / "mlflow"),
        "server",
        "--backend-store-uri",
        "sqlite:///{folder}/mlflow.db",
        *_LISTEN,
    ),
    table="/#/experiments/{experiment}/runs",
    curves=f"/#/metric?runs={{runs_as_json}}&metric=%22{METRIC}%22&experiments=%5B%22{{experiment}}%22%5D"
    f"&plot_metric_keys=%5B%22{METRIC}%22%5D",
    live="/#/experiments/{experiment}/runs/{run}/model-metrics",
    rows=".ag-center-cols-container .ag-row",
    plot=".js-plotly-plot",
    drawn="all",
    package="mlflow",
)
_AIM = Tool(
    name="Aim",
    writer="aim_runs.py",
    command=(str(PEERS / "aim"), "up", "--yes", "--repo", "{folder}", *_LISTEN),
    table="/runs",
    curves=f"/metrics?select={_AIM_QUERY}",
    rows=".RunNameColumn__runName",
    plot=".LineChart",
    drawn="500",
    live_note="with “Live Update” on, which is off by default",
    storage={"metricsLUConfig": aim_state({"delay": 10_000, "enabled": True})},
    package="aim",
)
_TRACKIO = Tool(
    name="trackio",
    writer="trackio_runs.py",
    command=(str(PEERS / "trackio"), "show", "--project", "bench"),
    table="/runs",
    curves=f"/metrics?metric_filter={quote(f'^{METRIC}$')}",
    rows="button.link-btn",
    plot=".plot-container .plot",
    drawn="lowest and highest among 3,000",
    variables={"TRACKIO_DIR": "{folder}", "GRADIO_SERVER_PORT": "{port}"},
    package="trackio",
)
TOOLS = (_CONJURE, _TENSORBOARD, _TENSORBOARD_WHOLE, _MLFLOW, _AIM, _TRACKIO)
