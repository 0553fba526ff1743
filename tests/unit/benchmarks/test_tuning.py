"""What `benchmarks/tuning.py` compares: settings relative to a text, and its tables."""

from pathlib import Path

import pytest

JOKES = Path(__file__).parents[3] / "examples/jokes/jokes.csv"


@pytest.fixture
def tuning(benchmark):
    return benchmark("tuning")


@pytest.fixture
def request_(tmp_path):
    return {"data": [JOKES], "model": "sprite", "output": tmp_path / "output", "seed": 1}


def test_a_rate_is_a_multiple_of_the_default(tuning, request_):
    third = tuning.settings_of(tuning.OURS["rate / 3"], request_)
    assert third == {"learning_rate": pytest.approx(9.9e-4 / 3)}


def test_batches_of_records_become_blocks(tuning, request_):
    settings = tuning.settings_of(tuning.THEIRS["mlx-lm"], request_)
    assert settings["batch_size"] == 1  # a block has six records
    assert settings["epochs"] == pytest.approx(4000 / 550, rel=0.01)
    assert "batch_records" not in settings


def test_a_table_for_each_model_and_text(tuning):
    one = tuning.Trained("sprite", "a.txt", "defaults", 1, 1.5, 1.25, 1.24, 2.5, 3.0, 12.0)
    other = tuning.Trained("sprite", "a.txt", "defaults", 2, 1.5, 1.35, 1.30, 2.0, 3.0, 14.0)
    lines = list(tuning.lines([one, other]))
    assert lines[0] == "sprite, a.txt: 1.5000 nats per held-out byte before"
    assert lines[4] == "| defaults | 2 | 1.3000 | 1.2500 to 1.3500 | 1.2700 | 3.0 | 13 |"
