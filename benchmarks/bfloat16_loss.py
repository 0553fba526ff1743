"""Forty steps of a model in bfloat16 and in float32, dropout off: how far the losses are apart.

``.venv/bin/python benchmarks/bfloat16_loss.py MODEL [DATA]`` prints a Markdown table of every tenth step
and the largest difference of all. The float32 losses are those of a plain loop over transformers' model
(tests/parity/test_training_loss.py).
"""

import argparse
from pathlib import Path

import torch

from conjure.lm.hardware import keep_freed_memory
from conjure.lm.language_model import load
from conjure.lm.text.records import read_records
from conjure.lm.text.split import hold_out
from conjure.lm.text.token_cache import tokenise
from conjure.lm.training.events import StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings

DATA = Path(__file__).parents[1] / "examples" / "jokes" / "jokes.csv"
STEPS, BATCH, BLOCK, RATE = 40, 2, 256, 1e-4


def losses(name: str, data: Path, dtype: torch.dtype) -> list[float]:
    """The loss of each step."""
    base = load(name)
    model = base.model.empty_copy(embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    model.load_state_dict(
        {key: weight.clone() for key, weight in base.model.state_dict().items()}, assign=True
    )
    blocks = Blocks(hold_out(tokenise(read_records([data]), base.tokenizer)).train, BLOCK)
    settings = TrainSettings(epochs=1000, max_steps=STEPS, batch_size=BATCH, micro_batch=BATCH, patience=0)
    trainer = Trainer(model, blocks, None, settings, adamw(RATE, 0.01), dtype)
    return [event.loss for event in trainer.run() if isinstance(event, StepDone)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="Name or folder of the model to start from.")
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="A table or text (our jokes).")
    options = parser.parse_args()
    keep_freed_memory()
    exact, rounded = (losses(options.model, options.data, kind) for kind in (torch.float32, torch.bfloat16))
    print("| step | float32 | bfloat16 |\n|--:|--:|--:|")
    for step in (1, *range(10, STEPS + 1, 10)):
        print(f"| {step} | {exact[step - 1]:.4f} | {rounded[step - 1]:.4f} |")
    largest = max(abs(one - other) for one, other in zip(exact, rounded, strict=True))
    print(f"\nLargest difference in {STEPS} steps of {BATCH} × {BLOCK} tokens: {largest:.4f} nats per token.")


if __name__ == "__main__":
    main()
