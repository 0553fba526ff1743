"""Loading GPT-2 itself: memory stays at the model's size. Large, so `make test-all` only."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config

PROGRAM = """
import resource, sys, torch
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
from conjure.lm.checkpoints.pretrained import load_model
load_model(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_peak_memory_is_at_most_1_3_times_the_float32_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    config = read_model_config({})
    save_checkpoint(tmp_path / "model", Decoder(config).initialise(0), None, dtype=dtype)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "model"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 1.3 * 4 * config.parameter_count
