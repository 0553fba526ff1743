"""A tiny checkpoint and a small text to fine-tune it on, and a process that does so until it is killed.

python -m support.tuning DATA MODEL OUTPUT [--resume]
"""

import sys
from pathlib import Path

from support.models import tiny_checkpoint
from support.texts import ONE_LINERS

# Small enough for tests: a handful of steps, evaluations and saves.
OPTIONS = {
    "epochs": 4,
    "batch_size": 4,
    "block_size": 16,
    "learning_rate": 3e-3,
    "eval_every": 10,
    "save_every": 5,
    "sample_every": 0,
    "patience": 0,
    "precision": "float32",
    "holdout": 0.25,
}


def tuning_inputs(folder: Path) -> tuple[Path, Path]:
    """A text file of one-liners and a tiny model's folder, made in `folder`."""
    text = folder / "jokes.txt"
    text.write_text("\n".join(ONE_LINERS) + "\n", encoding="utf-8")
    return text, tiny_checkpoint(folder / "base")


def main() -> None:
    """Fine-tune, saying each step, so that a test knows when to strike."""
    from conjure.lm.training.finetune import finetune

    data, model, output = sys.argv[1:4]
    finetune(
        data,
        model=model,
        output=output,
        split="lines",
        resume="--resume" in sys.argv,
        on_event=lambda event: print(type(event).__name__, getattr(event, "step", ""), flush=True),
        **OPTIONS,
    )


if __name__ == "__main__":
    main()
