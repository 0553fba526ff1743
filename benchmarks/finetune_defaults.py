"""conjure's defaults against the classic settings of 2019: held-out loss and time, over several seeds.

``.venv/bin/python benchmarks/finetune_defaults.py [DATA]`` prints a Markdown table. Classic is what
run_lm_finetuning.py and the recipes of its time did: records joined by line ends into one run of tokens, 10
epochs, batches of 2, a learning rate of 5e-5 falling linearly, no weight decay, no early stopping, dropout of
0.1 everywhere, float32; through `conjure.compat`, whose losses are that script's. Time is of training alone,
with the evaluations and saved checkpoints that belong to it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from protocol import HeldOut, Material

from conjure.compat.training import OldTraining, Training, read_blocks
from conjure.lm.hardware import keep_freed_memory
from conjure.lm.language_model import load
from conjure.lm.training.events import StepDone
from conjure.lm.training.finetune import train as tune
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest

DATA = Path(__file__).parents[1] / "examples" / "jokes" / "jokes.csv"


@dataclass(frozen=True)
class Trained:
    """One training run: how good, how long, how many steps."""

    held_out: HeldOut
    seconds: float
    steps: int


def classic(material: Material, seed: int) -> Trained:
    """The settings of 2019, on blocks of the model's whole context."""
    settings = OldTraining(per_gpu_train_batch_size=2, num_train_epochs=10, learning_rate=5e-5, seed=seed)
    base = material.base.model
    model = base.empty_copy(embedding_dropout=0.1, residual_dropout=0.1, attention_dropout=0.1)
    model.load_state_dict({name: weight.clone() for name, weight in base.state_dict().items()}, assign=True)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "records.txt"
        text.write_text("".join(f"{record}\n" for record in material.training), encoding="utf-8")
        blocks, _ = read_blocks(text, material.tokenizer, base.config.context_length)
    training = Training(model, blocks, settings)
    started = time.perf_counter()
    for _ in training.run():
        pass
    seconds = time.perf_counter() - started
    return Trained(material.measure(model.eval()), seconds, training.step)


def ours(material: Material, seed: int, precision: str = "auto") -> Trained:
    """`conjure finetune` with nothing but a seed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        request = FinetuneRequest(
            data=[material.data],
            model=material.model,
            output=output,
            seed=seed,
            sample_every=0,
            precision=precision,
        )
        events = tune(prepare(request))
        next(events)  # the evaluation before the first step
        started = time.perf_counter()
        steps = sum(isinstance(event, StepDone) for event in events)
        seconds = time.perf_counter() - started
        return Trained(material.measure(load(output).model), seconds, steps)


def rows(material: Material, seeds: list[int]) -> Iterator[str]:
    """The table, line by line; runs as it is read."""
    settings: dict[str, Callable[[int], Trained]] = {
        "classic, 2019": lambda seed: classic(material, seed),
        "conjure's defaults": lambda seed: ours(material, seed),
        "conjure's defaults, float32": lambda seed: ours(material, seed, "float32"),
    }
    yield "| | held-out, nats per byte | records joined by line ends | seconds | steps |"
    yield "|---|--:|--:|--:|--:|"
    base = material.measure(material.base.model)
    yield f"| {material.model}, not tuned | {base.separate:.4f} | {base.joined:.4f} | | |"
    for name, train in settings.items():
        trained = []
        for seed in seeds:
            trained.append(train(seed))
            print(f"{name}, seed {seed}: {trained[-1]}", file=sys.stderr, flush=True)
        separate = spread([one.held_out.separate for one in trained])
        joined = spread([one.held_out.joined for one in trained])
        seconds = statistics.mean(one.seconds for one in trained)
        steps = statistics.mean(one.steps for one in trained)
        yield f"| {name} | {separate} | {joined} | {seconds:.1f} | {steps:.0f} |"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="A table or text (our jokes).")
    parser.add_argument(
        "--model", default="sprite", help="Name or folder of the model to start from (sprite)."
    )
    parser.add_argument("--seeds", default="42,43,44", help="With commas (42,43,44).")
    options = parser.parse_args()
    keep_freed_memory()
    material = Material(options.model, options.data)
    print(f"{len(material.training):,} records to learn from, {len(material.held_out):,} held out;")
    print(f"means over seeds {options.seeds}, with the lowest and the highest.\n")
    for line in rows(material, [int(seed) for seed in options.seeds.split(",")]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
