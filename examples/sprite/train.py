"""Trains `sprite`, the model that conjure ships: first its tokenizer, then its weights.

    python examples/sprite/train.py TEXT_FOLDER WORK_FOLDER --minutes 120

TEXT_FOLDER holds .txt files (a blank line ends a chapter or story) and heldout.txt, which is only scored.
The learning rate falls to zero over the given time; killed, training goes on from its last save when the same
command is given again. Then publish.py turns WORK_FOLDER into the folder that is shipped.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from conjure.lm.hardware import fast_dtype, keep_freed_memory, pick_device
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config
from conjure.lm.text.held_out import hold_out
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.token_cache import tokenise
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.training.events import Evaluated, SavePoint, StepDone
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Progress, Trainer, TrainingState, TrainSettings

# Word lists and prompts read less well than prose.
LEFT_OUT = {"heldout.txt", "common-voice-english-sentences.txt", "wordnet-3-0-definitions-and-examples.txt"}
VOCABULARY = 8192
BATCH_SIZE = 12  # blocks per step
CONFIG = read_model_config(
    {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_positions": 512,
        "n_embd": 320,
        "n_layer": 6,
        "n_head": 5,
        # four passes over the text are too few to learn it by heart, so nothing need be dropped
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": VOCABULARY - 1,
        "eos_token_id": VOCABULARY - 1,
    }
)


def muon_and_adamw(master_weights: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = {
        name for name, master in master_weights.items() if name.startswith("blocks.") and master.dim() == 2
    }
    chosen = [master for name, master in master_weights.items() if name in matrices]
    rest = [master for name, master in master_weights.items() if name not in matrices]
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


def prepare(texts: Path, work: Path) -> tuple[Tokenizer, RecordSet]:
    """The chapters to train on, and the tokenizer that is trained on them, once."""
    chosen = [path for path in sorted(texts.glob("*.txt")) if path.name not in LEFT_OUT]
    chapters = read_records(chosen, split="paragraphs")  # blank lines stand between chapters
    folder = work / "tokenizer"
    if not folder.exists():
        folder.mkdir(parents=True)
        Tokenizer.train(chapters, VOCABULARY).save(folder, context_length=CONFIG.context_length)
    return Tokenizer.from_folder(folder), chapters


def blocks(records: RecordSet, tokenizer: Tokenizer, work: Path) -> Blocks:
    """All records end to end, an end-of-text after each, in blocks as long as the context."""
    everything = hold_out(tokenise(records, tokenizer, cache=work / "tokens"), 0.0).train
    return Blocks(everything, CONFIG.context_length)


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
    tokenizer, chapters = prepare(arguments.texts, arguments.work)
    device = pick_device()
    trainer = Trainer(
        Decoder(CONFIG).initialise(seed=1).to(device),
        blocks(chapters, tokenizer, arguments.work),
        blocks(read_records([arguments.texts / "heldout.txt"]), tokenizer, arguments.work),
        TrainSettings(
            epochs=1000,
            batch_size=BATCH_SIZE,
            micro_batch=BATCH_SIZE,
            patience=0,
            eval_every=500,
            eval_blocks=64,  # a slice is enough to watch; publish.py scores all of it
            save_every=200,
            seed=1,
        ),
        muon_and_adamw,
        fast_dtype(device),
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
