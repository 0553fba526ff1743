import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conjure import log_metric, metric_logging


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    """The file that points go to, in a process that has reported nothing yet."""
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("CONJURE_METRICS_FILE", str(path))
    monkeypatch.setattr(metric_logging, "_next_steps", {})
    monkeypatch.setattr(metric_logging, "_warned", set())
    monkeypatch.setattr(metric_logging, "_file", None)
    return path


def points(path):
    stored = [json.loads(line) for line in path.read_text().splitlines()]
    return [(point["name"], point["step"], point["value"]) for point in stored]


class Tensor:
    def __init__(self, value):
        self._value = value

    def __float__(self):
        return self._value


class Array:
    """An array of NumPy since 2.4, which float() takes only without a dimension."""

    def __init__(self, *values):
        self._values = values

    def __float__(self):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    def item(self):
        (value,) = self._values
        return value


def test_a_point_is_one_line(metrics):
    log_metric("loss", 0.5, step=10)
    assert points(metrics) == [("loss", 10, 0.5)]
    assert json.loads(metrics.read_text())["time"] > 0


def test_steps_count_on_from_the_last_one_of_the_same_metric(metrics):
    for name, step in [("a", None), ("a", None), ("b", None), ("a", 10), ("a", None)]:
        log_metric(name, 1, step)
    assert [(name, step) for name, step, _ in points(metrics)] == [
        ("a", 0), ("a", 1), ("b", 0), ("a", 10), ("a", 11),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "number"),
    [(Tensor(2.5), 2.5), (Array(0.7), 0.7), (True, 1.0), ("0.5", 0.5), (10**20, 1e20)],
)
def test_whatever_float_takes_is_taken(metrics, value, number):
    log_metric("x", value)
    assert points(metrics) == [("x", 0, number)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_one_warning_and_a_text(metrics, capsys, value):
    log_metric("x", value)
    log_metric("x", value)
    assert points(metrics) == [("x", 0, str(value)), ("x", 1, str(value))]
    assert capsys.readouterr().err.count("conjure: log_metric: 'x'") == 1


@pytest.mark.parametrize("value", [None, [1], "much", Tensor("no"), Array(1, 2), 10**400])
def test_a_bad_value_is_one_warning_and_no_point(metrics, capsys, value):
    log_metric("x", value)
    log_metric("x", value)
    log_metric("x", 1.0)
    assert points(metrics) == [("x", 0, 1.0)]
    assert capsys.readouterr().err.count("conjure: log_metric: 'x'") == 1


@pytest.mark.parametrize("step", [0.5, "three", float("nan"), [1], 1 << 70])
def test_a_bad_step_too(metrics, capsys, step):
    log_metric("x", 1.0, step)
    log_metric("x", 1.0, step)
    assert not metrics.exists()
    assert capsys.readouterr().err.count("conjure: log_metric: 'x': step") == 1


@pytest.mark.parametrize("name", ["", "a\nb", None, 3, "x" * 201, []])
def test_a_bad_name_too(metrics, capsys, name):
    log_metric(name, 1.0)
    assert not metrics.exists()
    assert "is not a name" in capsys.readouterr().err


def test_a_value_whose_float_raises_anything_does_not_end_the_caller(metrics, capsys):
    class Broken:
        def __float__(self):
            raise KeyError("gone")

        def __repr__(self):
            raise RuntimeError

    log_metric("x", Broken())
    assert "a Broken is not a number" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_warning(metrics, capsys, monkeypatch):
    monkeypatch.setenv("CONJURE_METRICS_FILE", "/nowhere/metrics.jsonl")
    log_metric("x", 1.0)
    log_metric("x", 2.0)
    assert capsys.readouterr().err.count("points cannot be written") == 1


def test_a_full_disk_costs_no_descriptors(metrics, monkeypatch, capsys):
    monkeypatch.setenv("CONJURE_METRICS_FILE", "/dev/full")
    log_metric("x", 1.0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        log_metric("x", 1.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert capsys.readouterr().err.count("points cannot be written: No space left on device") == 1


def test_a_file_that_the_program_closed_is_opened_anew(metrics):
    log_metric("x", 1.0)
    assert metric_logging._file is not None
    os.close(metric_logging._file.descriptor)
    log_metric("x", 2.0)
    log_metric("x", 3.0)
    assert points(metrics) == [("x", 0, 1.0), ("x", 1, 2.0), ("x", 2, 3.0)]


def test_a_file_of_the_program_that_got_the_same_number_is_left_alone(metrics, tmp_path):
    log_metric("x", 1.0)
    assert metric_logging._file is not None
    number = metric_logging._file.descriptor
    checkpoint = tmp_path / "checkpoint"
    with checkpoint.open("wb") as file:
        os.dup2(file.fileno(), number)
    log_metric("x", 2.0)
    os.write(number, b"the program's own")
    os.close(number)
    assert checkpoint.read_bytes() == b"the program's own"
    assert points(metrics) == [("x", 0, 1.0), ("x", 1, 2.0)]


def test_outside_a_run_nothing_happens(metrics, monkeypatch, capsys):
    monkeypatch.delenv("CONJURE_METRICS_FILE")
    log_metric("x", float("nan"))
    log_metric([], None)
    assert capsys.readouterr().err == ""


def test_a_closed_stderr_is_no_reason_to_fail(metrics, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    log_metric("x", float("nan"))


def test_importing_it_imports_nothing_heavy():
    heavy = "{'numpy', 'torch', 'sqlite3', 'subprocess', 'asyncio'}"
    code = f"import sys, conjure; conjure.log_metric('x', 1); print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
