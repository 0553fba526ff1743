"""Forty steps of training, dropout off: the losses of a plain float32 loop over transformers' model."""

import pytest
import torch

from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.training.events import StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Batch
from conjure.lm.training.schedule import Schedule
from conjure.lm.training.trainer import Trainer, TrainSettings
from support.models import tiny_config
from support.oracle import random_ids, reference_model

STEPS, BATCH, LENGTH = 40, 4, 48
RATE, DECAY, MOST_NORM = 1e-2, 0.01, 1.0
# Nats per token at any of the steps, while the loss itself falls by whole nats.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 0.03}
CONFIG = tiny_config(n_embd=64, n_layer=3, n_head=4, context_length=LENGTH)


class SameBlocks:
    """Twelve blocks, always in this order, with a pattern to learn: tokens go up by one, two or three."""

    ids = (random_ids(CONFIG, 12, LENGTH + 1, seed=1) % 3 + 1).cumsum(1) % 50

    def __len__(self):
        return len(self.ids)

    def batch(self, numbers):
        rows = self.ids[list(numbers)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.zeros_like(rows[:, 1:]))

    def order(self, epoch, seed):
        del epoch, seed
        return list(range(len(self)))


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    """A checkpoint for both to begin with."""
    folder = tmp_path_factory.mktemp("initial")
    reference_model(CONFIG, std=0.05).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(initial):
    model = type(reference_model(CONFIG)).from_pretrained(initial).eval()  # no dropout, as below
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, foreach=False)
    schedule, blocks, losses = Schedule("cosine", STEPS, 2), SameBlocks(), []
    for step in range(STEPS):
        first = step * BATCH % len(blocks)
        rows = blocks.ids[first : first + BATCH]
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MOST_NORM)
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule.factor(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_forty_steps_follow_a_float32_reference(initial, expected, dtype):
    settings = TrainSettings(
        epochs=1000, max_steps=STEPS, batch_size=BATCH, micro_batch=2, warmup_ratio=2 / STEPS, patience=0
    )
    trainer = Trainer(load_model(initial), SameBlocks(), None, settings, adamw(RATE, DECAY), dtype)
    losses = [event.loss for event in trainer.run() if isinstance(event, StepDone)]
    differences = [abs(one - other) for one, other in zip(losses, expected, strict=True)]
    assert max(differences) <= BOUNDS[dtype]
    assert expected[-1] < expected[0] - 1.5
