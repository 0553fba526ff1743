"""Trains `sprite`, the model that conjure ships: the sprite before goes on learning, from other texts.

    python examples/sprite/train.py BASE_FOLDER TEXT_FOLDER PROSE_FOLDER WORK_FOLDER --minutes 75

BASE_FOLDER is the sprite before, TEXT_FOLDER what clean_text.py made. PROSE_FOLDER holds .txt files (a blank
line ends a chapter or story) and a list of sentences, one on a line; of both every epoch takes others; and
heldout.txt, which is never learned from. The learning rate falls to zero over the given time. Killed,
training goes on from its last save when the same command is given again. publish.py turns WORK_FOLDER into
the folder that is shipped.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from conjure.lm.hardware import fast_dtype, keep_freed_memory, pick_device
from conjure.lm.language_model import load
from conjure.lm.models.decoder import Decoder
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.split import TokenStream, hold_out
from conjure.lm.text.token_cache import tokenise
from conjure.lm.training.events import Evaluated, SavePoint, StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Batch, Blocks
from conjure.lm.training.trainer import Progress, Trainer, TrainingState, TrainSettings

SENTENCES = "common-voice-english-sentences.txt"
LEFT_OUT = {"heldout.txt", SENTENCES, "wordnet-3-0-definitions-and-examples.txt"}  # of the prose
# Tokens of an epoch for each of the written text: old prose has the rarer words, sentences are everyday ones.
# Sentences are short, and make no more sense than one can alone: with a share of 0.3, half of what the model
# begins is one.
PROSE_SHARE, SENTENCES_SHARE = 0.05, 0.1
BATCH_SIZE = 6  # blocks per step
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
DROPOUT = 0.1  # while training: the text is read several times
AVERAGED_STEPS = 50  # how far back the average of the weights reaches that is shipped


class Clock:
    """A learning-rate schedule over time instead of steps: up for 2 % of it, then down to zero."""

    def __init__(self, seconds: float, already: float) -> None:
        self.seconds, self.already, self.started = seconds, already, time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.already + time.monotonic() - self.started

    def factor(self, step: int) -> float:  # noqa: ARG002 (a schedule is asked by step)
        progress = min(1.0, self.elapsed / self.seconds)
        return max(1e-3, min(progress / 0.02, (1.0 - progress) / 0.98))


class ShuffledDocuments:
    """Blocks of documents that lie end to end in a new order every epoch, some of other sources among them.

    Args:
        text: The documents that every epoch has all of.
        others: Other documents, of which an epoch has some, and how many of their tokens for each of `text`.
        block_size: Tokens in a block.
    """

    def __init__(
        self, text: TokenStream, others: Sequence[tuple[TokenStream, float]], block_size: int
    ) -> None:
        self._text, self._block_size = text, block_size
        self._others = [(source, int(share * len(text))) for source, share in others]
        self._end_of_text = text.read(len(text) - 1, len(text))
        self._tokens = self._end_of_text

    def __len__(self) -> int:
        """Blocks of an epoch; what is left over is dropped."""
        return (len(self._text) + sum(tokens for _, tokens in self._others)) // self._block_size

    def order(self, epoch: int, seed: int) -> list[int]:
        """Lay out the tokens of an epoch, which are then taken from first to last."""
        random = np.random.default_rng([seed, epoch])
        documents = [_record(self._text, number) for number in range(self._text.records)]
        for source, missing in self._others:
            for number in random.permutation(source.records):
                if missing <= 0:
                    break
                documents.append(_record(source, number)[:missing])
                missing -= len(documents[-1])
        shuffled = (documents[number] for number in random.permutation(len(documents)))
        self._tokens = np.concatenate([self._end_of_text, *shuffled])
        return list(range(len(self)))

    def batch(self, numbers: list[int]) -> Batch:
        """Blocks of the epoch that was laid out last."""
        size = self._block_size
        rows = np.stack([self._tokens[number * size : (number + 1) * size + 1] for number in numbers])
        ids, targets = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])
        return Batch(ids, targets, torch.zeros_like(ids))


def _record(stream: TokenStream, number: int) -> np.ndarray:
    start = int(stream.ends[number - 1]) if number else 0
    return stream.read(start, int(stream.ends[number]))


class WeightAverage:
    """An average of the weights over the latest steps, which is less noisy than any of them.

    Args:
        weights: What it starts from.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}

    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after a step; early on it reaches back less far."""
        share = max(1.0 / AVERAGED_STEPS, 1.0 / (1 + step / 10))
        for name, average in self.tensors.items():
            average.lerp_(weights[name].detach(), share)


def prose_chapters(folder: Path) -> RecordSet:
    """The chapters of a folder of prose."""
    chosen = [path for path in sorted(folder.glob("*.txt")) if path.name not in LEFT_OUT]
    return read_records(chosen, split="paragraphs")  # blank lines stand between chapters


def save(work: Path, trainer: Trainer, average: WeightAverage, clock: Clock) -> None:
    state = trainer.state()
    averages = {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    metadata = {"progress": json.dumps({"step": state.progress.step, "elapsed": clock.elapsed})}
    save_file({**state.tensors, **averages}, work / "state.new", metadata)
    (work / "state.new").replace(work / "state.safetensors")


def resume(work: Path, trainer: Trainer, average: WeightAverage) -> float:
    """Take up the last save; return the seconds already trained."""
    path = work / "state.safetensors"
    if not path.exists():
        return 0.0
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    trainer.restore(TrainingState(Progress(step=progress["step"]), tensors))
    for name, tensor in average.tensors.items():
        tensor.copy_(tensors[f"average.{name}"])
    return progress["elapsed"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("prose", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=75.0)
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    base = load(arguments.base)
    model = Decoder(replace(base.model.config, residual_dropout=DROPOUT))
    model.load_state_dict(base.model.state_dict())
    block_size = model.config.context_length
    text = read_records([arguments.texts / "text.txt"], split="paragraphs")
    prose = prose_chapters(arguments.prose)
    sentences = read_records([arguments.prose / SENTENCES], split="lines")

    def stream(records: RecordSet) -> TokenStream:
        return hold_out(tokenise(records, base.tokenizer, cache=arguments.work / "tokens"), 0.0).train

    held_out = stream(read_records([arguments.texts / "heldout.txt"], split="paragraphs"))
    device = pick_device()
    trainer = Trainer(
        model.to(device),
        ShuffledDocuments(
            stream(text),
            [(stream(prose), PROSE_SHARE), (stream(sentences), SENTENCES_SHARE)],
            block_size,
        ),
        Blocks(held_out, block_size),
        TrainSettings(
            epochs=1000,
            batch_size=BATCH_SIZE,
            micro_batch=BATCH_SIZE,
            patience=0,
            eval_every=100,
            save_every=100,
            seed=1,
        ),
        adamw(LEARNING_RATE, WEIGHT_DECAY),
        fast_dtype(device),
    )
    average = WeightAverage(trainer.optimizer.master_weights)
    clock = Clock(arguments.minutes * 60, resume(arguments.work, trainer, average))
    trainer.schedule = clock
    print(f"{trainer.steps_per_epoch:,} steps an epoch", flush=True)
    for event in trainer.run():
        if isinstance(event, StepDone):
            average.update(trainer.optimizer.master_weights, event.step)
            if event.step % 20 == 0:
                rate = event.targets / event.seconds
                print(
                    f"{clock.elapsed:6.0f} s  step {event.step}  loss {event.loss:.3f}  {rate:,.0f} tokens/s",
                    flush=True,
                )
        elif isinstance(event, Evaluated):
            print(
                f"{clock.elapsed:6.0f} s  step {event.step}  held-out {event.loss:.4f} nats/token", flush=True
            )
        elif isinstance(event, SavePoint):
            save(arguments.work, trainer, average, clock)
        if clock.elapsed >= clock.seconds:
            trainer.stop()
    save(arguments.work, trainer, average, clock)


if __name__ == "__main__":
    main()
