"""Training by several processes beside several threads: tokens per second, on this machine.

``.venv/bin/python benchmarks/distributed.py [--steps N] [--large]`` prints a Markdown table. The model has
random weights: 10 million of them, or with ``--large`` the 124 million of GPT-2. Each row is a training of
its own, one after the other, in float32 and without dropout, of equal micro-batches; the rate is that of the
median step.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from machine import facts

from conjure.core.machine_limits import physical_cores
from conjure.lm.hardware import keep_freed_memory, pick_device
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config
from conjure.lm.models.shape import Shape
from conjure.lm.text.split import TokenStream
from conjure.lm.training.distributed.process_group import join
from conjure.lm.training.events import StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings
from conjure.runs.distributed.ranked_command import rank_variables
from conjure.runs.executors.command import Ranks

_WITHOUT_DROPOUT = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
_SMALL = {"n_embd": 320, "n_layer": 6, "n_head": 5, "vocab_size": 8192, "n_positions": 512}
_LARGE = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
_BATCH, _BLOCK, _WARM_UP = 8, 256, 2
_MICRO_BATCH = 2
_WORKER = "--worker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed")
    parser.add_argument("--large", action="store_true", help="GPT-2's size")
    arguments = parser.parse_args()
    machine = facts(Path(sys.executable))
    load = f"load average {machine['load_average']:.1f}"
    print(f"{machine['processor']}, {physical_cores()} cores, {load}, torch {torch.__version__}\n")
    print("| processes | threads each | tokens/s | against 1 × 1 |\n|--:|--:|--:|--:|")
    base = None
    for processes, threads in ((1, 1), (2, 1), (1, 2)):
        rate = _rate(processes, threads, arguments.steps, large=arguments.large)
        base = base if base is not None else rate
        print(f"| {processes} | {threads} | {rate:,.0f} | {rate / base:.2f} |", flush=True)


def _rate(processes: int, threads: int, steps: int, *, large: bool) -> float:
    """Tokens per second of one training, in worker processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, __file__, _WORKER, str(steps), *(["--large"] if large else [])]
    started = []
    for rank in range(processes):
        place = rank_variables(Ranks(processes), rank, port)
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **place}
        started.append(subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True))
    answers = [process.communicate()[0] for process in started]
    return float(answers[0])


def _work(steps: int, settings: dict[str, int]) -> None:
    """Train as one of the processes; the first prints its rate."""
    keep_freed_memory()
    group = join(int(os.environ["WORLD_SIZE"]), pick_device)
    config = read_model_config({**settings, **_WITHOUT_DROPOUT})
    assert isinstance(config, Shape)
    model = Decoder(config).initialise(0, 0.02)
    tokens = _BATCH * _BLOCK * (steps + _WARM_UP)
    ids = np.random.default_rng(0).integers(0, settings["vocab_size"], tokens + 1)
    stream = TokenStream(ids, np.array([0]), np.array([len(ids)]), end_of_text=False, labels=np.array([0]))
    training = TrainSettings(epochs=1, batch_size=_BATCH, micro_batch=_MICRO_BATCH, patience=0)
    trainer = Trainer(model, Blocks(stream, _BLOCK), None, training, adamw(1e-4, 0.0), group=group)
    times = [event.seconds for event in trainer.run() if isinstance(event, StepDone)]
    group.finish()
    if group.leads:
        print(_BATCH * _BLOCK / statistics.median(times[_WARM_UP:]))


def _is_worker(words: Sequence[str]) -> bool:
    return len(words) > 1 and words[0] == _WORKER


if __name__ == "__main__":
    if _is_worker(sys.argv[1:]):
        _work(int(sys.argv[2]), _LARGE if "--large" in sys.argv else _SMALL)
    else:
        main()
