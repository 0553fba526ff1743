"""A grid of learning rates, block sizes and record masks: what conjure's defaults were chosen by.

``.venv/bin/python benchmarks/learning_rates.py [DATA]`` prints a Markdown table of held-out nats per byte,
by the protocol of protocol.py: the best evaluation of each run, and after how many epochs. Everything that
is not in the grid is `conjure finetune`'s default.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import Material

from conjure.lm.training.events import Evaluated, Finished
from conjure.lm.training.finetune import make_trainer
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest

DATA = Path(__file__).parents[1] / "examples" / "jokes" / "jokes.csv"


@dataclass(frozen=True)
class Trained:
    """One run: its best held-out nats per byte, after how many epochs, and how long it all took."""

    nats_per_byte: float
    best_epoch: float
    seconds: float


def train(material: Material, settings: dict[str, Any]) -> Trained:
    """One point of the grid."""
    with tempfile.TemporaryDirectory() as folder:
        request = FinetuneRequest(
            data=[material.data], model=material.model, output=Path(folder) / "output", **settings
        )
        # The loop itself: no samples, no report, no checkpoint.
        trainer = make_trainer(prepare(request))
        started = time.perf_counter()
        best, step = material.measure(material.base.model).separate, 0
        for event in trainer.run():
            if isinstance(event, Evaluated) and event.improved and event.step > 0:
                best, step = material.measure(trainer.full_precision_model()).separate, event.step
            elif isinstance(event, Finished):
                break
    return Trained(best, step / trainer.steps_per_epoch, time.perf_counter() - started)


def rows(material: Material, options: argparse.Namespace) -> Iterator[str]:
    """The table, line by line; runs as it is read."""
    further = {"epochs": options.epochs, "batch_size": options.batch_size, "schedule": options.schedule}
    rates = numbers(options.rates, float)
    yield f"| block | records masked | {' | '.join(f'{rate:g}' for rate in rates)} | seconds |"
    yield f"|--:|---|{'--:|' * (len(rates) + 1)}"
    masks = [word == "on" for word in options.masks.split(",")]
    for block_size, mask in itertools.product(numbers(options.block_sizes, int), masks):
        cells, seconds = [], []
        for rate in rates:
            settings = {**further, "block_size": block_size, "mask_records": mask, "learning_rate": rate}
            trained = [train(material, {**settings, "seed": seed}) for seed in numbers(options.seeds, int)]
            print(f"{settings}: {trained}", file=sys.stderr, flush=True)
            mean = statistics.mean(one.nats_per_byte for one in trained)
            epoch = statistics.mean(one.best_epoch for one in trained)
            cells.append(f"{mean:.4f} (e{epoch:.1f})")
            seconds += [one.seconds for one in trained]
        word = "yes" if mask else "no"
        yield f"| {block_size} | {word} | {' | '.join(cells)} | {statistics.mean(seconds):.1f} |"


def numbers(words: str, kind: type) -> list[Any]:
    return [kind(word) for word in words.split(",")]


def main() -> None:
    defaults = FinetuneRequest(data=["-"], output="-")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="A table or text (our jokes).")
    parser.add_argument("--model", default="sprite")
    parser.add_argument("--rates", default="2.5e-4,5e-4,1e-3,2e-3,4e-3", help="With commas.")
    parser.add_argument("--block-sizes", default="128,256,512", help="With commas.")
    parser.add_argument("--masks", default="off,on", help="off, on, or both with a comma.")
    parser.add_argument("--seeds", default="42", help="With commas; the mean is shown.")
    parser.add_argument("--epochs", type=float, default=defaults.epochs)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--schedule", default=defaults.schedule)
    options = parser.parse_args()
    material = Material(options.model, options.data)
    print(f"{options.model}, {options.data.name}: held-out nats per byte by learning rate, best of up to")
    print(f"{options.epochs:g} epochs in batches of {options.batch_size}; seeds {options.seeds}.\n")
    for line in rows(material, options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
