"""Trains `sprite`, the model that conjure ships: first its tokenizer, then its weights.

    python examples/sprite/train.py TEXT_FOLDER WORK_FOLDER --minutes 120

TEXT_FOLDER holds .txt files (a blank line ends a chapter or story) and heldout.txt, which is only scored.
The learning rate falls to zero over the given time; killed, training goes on from its last save when the same
command is given again. Then publish.py turns WORK_FOLDER into the folder that is shipped.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from conjure.lm.config import GPT2Config
from conjure.lm.hardware import fast_dtype, keep_freed_memory, pick_device
from conjure.lm.model import GPT2
from conjure.lm.tokenizer import Tokenizer
from conjure.lm.train import (
    Batch,
    Evaluated,
    Progress,
    SavePoint,
    StepDone,
    Trainer,
    TrainingState,
    TrainSettings,
)

# Word lists and prompts read less well than prose.
LEFT_OUT = {"heldout.txt", "common-voice-english-sentences.txt", "wordnet-3-0-definitions-and-examples.txt"}
VOCABULARY = 8192
CONFIG = GPT2Config(
    vocab_size=VOCABULARY,
    context_length=512,
    n_embd=320,
    n_layer=6,
    n_head=5,
    # four passes over the text are too few to learn it by heart, so nothing need be dropped
    embd_pdrop=0.0,
    resid_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=VOCABULARY - 1,
    eos_token_id=VOCABULARY - 1,
)


def chapters(folder: Path) -> Iterable[str]:
    """Every chapter, story or entry of every text: what stands between blank lines."""
    for path in sorted(folder.glob("*.txt")):
        if path.name not in LEFT_OUT:
            yield from (part.strip("\n") for part in path.read_text("utf-8").split("\n\n") if part.strip())


class PackedChapters:
    """Chapters end to end, an end-of-text after each, cut into blocks that overlap by one token."""

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def batch(self, rows: Sequence[int]) -> Batch:
        starts = np.asarray(rows)[:, None] * self.length + np.arange(self.length + 1)
        blocks = torch.from_numpy(self.tokens[starts].astype(np.int64))
        return Batch(blocks[:, :-1], blocks[:, 1:])


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    ids: list[int] = []
    for encoded in tokenizer.encode_batch(list(texts)):
        ids += [*encoded, tokenizer.end_of_text_id]
    return np.array(ids, np.uint16)


def muon_and_adamw(masters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = {name for name, master in masters.items() if name.startswith("h.") and master.dim() == 2}
    chosen = [master for name, master in masters.items() if name in matrices]
    rest = [master for name, master in masters.items() if name not in matrices]
    return [
        torch.optim.Muon(chosen, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


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


def prepare(texts: Path, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Train the tokenizer and encode everything, once."""
    if not (work / "tokens.npy").exists():
        folder = work / "tokenizer"
        folder.mkdir(parents=True, exist_ok=True)
        training = list(chapters(texts))
        tokenizer = Tokenizer.train(training, VOCABULARY)
        tokenizer.save(folder, context_length=CONFIG.context_length)
        np.save(work / "held_out.npy", encode(tokenizer, [(texts / "heldout.txt").read_text("utf-8")]))
        np.save(work / "tokens.npy", encode(tokenizer, training))
    return np.load(work / "tokens.npy"), np.load(work / "held_out.npy")


def save(work: Path, trainer: Trainer, clock: Clock) -> None:
    state = trainer.state()
    metadata = {"progress": json.dumps({"step": state.progress.step, "elapsed": clock.elapsed})}
    save_file(state.tensors, work / "state.new", metadata)
    (work / "state.new").replace(work / "state.safetensors")


def resume(work: Path, trainer: Trainer) -> float:
    """Take up the last save; return the seconds already trained."""
    path = work / "state.safetensors"
    if not path.exists():
        return 0.0
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    trainer.restore(TrainingState(Progress(step=progress["step"]), tensors))
    return progress["elapsed"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=120.0)
    arguments = parser.parse_args()
    keep_freed_memory()
    tokens, held_out = prepare(arguments.texts, arguments.work)
    device = pick_device()
    model = GPT2(CONFIG).initialise(seed=1).to(device, fast_dtype(device))
    length = CONFIG.context_length
    trainer = Trainer(
        model,
        PackedChapters(tokens, length),
        # a slice is enough to watch; publish.py scores all of it
        PackedChapters(held_out[: 64 * length + 1], length),
        TrainSettings(
            epochs=1000, batch_size=12, micro_batch=12, patience=0, eval_every=500, save_every=500, seed=1
        ),
        muon_and_adamw,
    )
    clock = Clock(arguments.minutes * 60, resume(arguments.work, trainer))
    trainer.schedule = clock
    for event in trainer.run():
        if isinstance(event, StepDone) and event.step % 100 == 0:
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
            save(arguments.work, trainer, clock)
        if clock.elapsed >= clock.seconds:
            trainer.stop()
    save(arguments.work, trainer, clock)


if __name__ == "__main__":
    main()
