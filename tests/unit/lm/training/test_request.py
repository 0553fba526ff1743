"""What a request for a fine-tune refuses, and what it makes of what it is given."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conjure.errors import UsageError
from conjure.lm.training.request import FinetuneRequest


def asked(**given: Any) -> FinetuneRequest:
    return FinetuneRequest(data=["jokes.txt"], output="tuned", **given)


def test_numbers_of_numpy_are_python_s_for_they_are_stored_as_json():
    request = asked(
        epochs=np.float32(1.5), seed=np.int64(7), batch_size=np.int32(4), distributed=np.int64(2), lora=3
    )
    settings = json.loads(json.dumps(request.settings()))
    assert {name: settings[name] for name in ("epochs", "seed", "batch_size", "lora")} == {
        "epochs": 1.5,
        "seed": 7,
        "batch_size": 4,
        "lora": 3,
    }
    assert type(request.distributed) is int


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("patience", "patience must be an integer of at least 0, not None"),
        ("max_grad_norm", "max_grad_norm must be a number of at least 0, not None"),
        ("epochs", "epochs must be a number above 0, not None"),
        ("holdout", "holdout must be a number from 0 to 0.9, not None"),
        ("seed", "seed must be an integer of at least 0, not None"),
    ],
)
def test_none_is_refused_where_nothing_can_be_decided(name, said):
    with pytest.raises(UsageError) as refused:
        asked(**{name: None})
    assert str(refused.value) == said


def test_an_unknown_number_format_is_refused_before_anything_is_read():
    with pytest.raises(UsageError) as refused:
        asked(precision="bf16", seed=-1)
    assert "seed must be at least 0" in str(refused.value)
    assert "precision is 'bf16'; allowed: auto, float32, bfloat16" in str(refused.value)


def test_none_is_what_is_to_be_decided():
    request = asked(learning_rate=None, block_size=None, lora=None, max_steps=None, sample_every=None)
    assert request == asked()


def test_an_output_in_the_home_folder_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    request = FinetuneRequest(data=["jokes.txt"], output="~/tuned")
    assert request.output == tmp_path / "tuned"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"distributed": 4, "batch_size": 2, "grad_accumulation": 3},
            "distributed is 4; the 6 blocks of a step (batch_size times grad_accumulation) can be shared by"
            " 1, 2, 3, 6 processes",
        ),
        ({"distributed": 4, "nodes": 1, "batch_size": 6}, "distributed is 4; the 6 blocks of a step"),
        (
            {"distributed": 2, "nodes": 2, "batch_size": 6},
            "distributed is 2 on each of 2 nodes; the 6 blocks of a step",
        ),
        ({"nodes": 2}, "nodes needs distributed='N': the processes on each node"),
        ({"lora_output": "adapter"}, "lora_output is 'adapter', which needs lora=8"),
        ({"data": []}, "data is empty: no data was given"),
    ],
)
def test_what_cannot_be_is_said(given, said):
    with pytest.raises(UsageError, match=f"^{re.escape(said)}"):
        FinetuneRequest(**{"data": ["jokes.txt"], "output": "tuned", **given})


def test_a_number_out_of_bounds_is_not_reckoned_with():
    with pytest.raises(UsageError) as refused:
        asked(distributed=4, nodes=2, batch_size=0)
    assert str(refused.value) == "batch_size must be at least 1, not 0"


def test_the_blocks_of_all_forward_passes_are_shared():
    assert asked(distributed=2, nodes=3, batch_size=2, grad_accumulation=3).processes == 6
    assert asked(distributed=1).processes == 1
    assert asked().processes is None


def test_places_and_a_date_are_stored_as_text():
    given = {"model": Path("base"), "validation": Path("v.txt"), "adapter": Path("a")}
    settings = asked(**given, chat_date=date(2026, 3, 1)).settings()
    stored = {"model": "base", "validation": "v.txt", "adapter": "a", "chat_date": "2026-03-01"}
    assert {name: settings[name] for name in stored} == stored
    without = asked().settings()
    assert {name: without[name] for name in stored} == dict.fromkeys(stored, None) | {"model": "sprite"}
    assert "data" not in without


def test_an_adapter_of_a_model_with_an_adapter_is_refused():
    with pytest.raises(UsageError, match="lora_output is 'adapter', which cannot be combined with adapter: "):
        asked(adapter="z", lora=2, lora_output="adapter")
    asked(adapter="z", lora=2)


def test_all_faults_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        asked(epochs=0, batch_size=0, learning_rate=-1, schedule="up")
    message = str(caught.value)
    for part in ("epochs must be", "batch_size must be", "learning_rate must be", "schedule is 'up'"):
        assert part in message


@pytest.mark.parametrize("epochs", [1_000_001, 1e308])
def test_epochs_beyond_reason_are_refused(epochs):
    with pytest.raises(UsageError, match="epochs must be above 0 and at most 1000000"):
        asked(epochs=epochs)
    asked(epochs=1_000_000)


def test_a_seed_fits_in_64_bits_with_a_sign():
    assert asked(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(UsageError, match="seed must be"):
        asked(seed=2**63)


def test_special_tokens_are_read_as_such_on_request_alone():
    assert asked(special_tokens="token").reads_special_tokens
    assert not asked().reads_special_tokens
