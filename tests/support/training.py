"""Small trainings: blocks from plain ids, a tiny model, and the losses that come out."""

import numpy as np

from conjure.lm.text.split import TokenStream
from conjure.lm.training.events import Evaluated, StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings
from support.models import tiny_model


def token_blocks(tokens: int, block_size: int = 8, seed: int = 0) -> Blocks:
    """Blocks of a stream with a pattern in it, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    ids = np.cumsum(generator.integers(1, 4, tokens)) % 20
    stream = TokenStream(ids, np.array([0]), np.array([tokens]), end_of_text=False, labels=np.array([0]))
    return Blocks(stream, block_size)


def tiny_trainer(
    *,
    tokens: int = 200,
    learning_rate: float = 1e-2,
    model_seed: int = 0,
    dropout: float = 0.0,
    dtype=None,
    held_out: int | None = 60,
    group=None,
    **settings,
) -> Trainer:
    """A trainer of a tiny model on `tokens` tokens; `settings` are those of `TrainSettings`."""
    import torch

    config = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), dropout)
    return Trainer(
        tiny_model(model_seed, 0.1, **config),
        token_blocks(tokens),
        token_blocks(held_out, seed=1) if held_out is not None else None,
        TrainSettings(**{"epochs": 2, "batch_size": 4, "micro_batch": 4, **settings}),
        adamw(learning_rate, 0.01),
        dtype if dtype is not None else torch.float32,
        group=group,
    )


def losses(trainer: Trainer) -> list[tuple[str, int, float]]:
    """Every training and held-out loss of a run, in order."""
    return [
        (type(event).__name__, event.step, event.loss)
        for event in trainer.run()
        if isinstance(event, StepDone | Evaluated)
    ]
