"""conjure's training loop on ready-made blocks of tokens, whole or with one of its gains taken out."""

from collections.abc import Sequence

import numpy as np
import torch
from exchange import StepTimes, answer, task
from without import take_out

from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.hardware import fast_dtype, keep_freed_memory, pick_device
from conjure.lm.training.events import StepDone
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Batch
from conjure.lm.training.trainer import Trainer, TrainSettings

_PEAK_RATE = 5e-5


class ReadyBlocks:
    """Blocks in memory, (N, T + 1), each with the token that follows it."""

    def __init__(self, path: str, block: int) -> None:
        self._ids = torch.from_numpy(np.load(path)[:, : block + 1].astype(np.int64))

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, numbers: Sequence[int]) -> Batch:
        rows = self._ids[list(numbers)]
        ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        return Batch(ids, targets, torch.zeros_like(ids))

    def order(self, epoch: int, seed: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(len(self)).tolist()


def main() -> None:
    assigned = task()
    if assigned.get("without") != "memory kept between steps":
        keep_freed_memory()
    take_out(assigned.get("without"))
    device = pick_device()
    blocks, base = ReadyBlocks(assigned["blocks"], assigned["block"]), load_model(assigned["checkpoint"])
    dropout = {
        "embedding_dropout": assigned["dropout"],
        "residual_dropout": assigned["dropout"],
        "attention_dropout": assigned["attention_dropout"],
    }
    model = base.empty_copy(**dropout)
    model.load_state_dict(base.state_dict(), assign=True)
    batch = assigned["batch"]
    settings = TrainSettings(epochs=1000, batch_size=batch, micro_batch=batch, schedule="linear", patience=0)
    trainer = Trainer(
        model.to(device),
        blocks,
        None,
        settings,
        adamw(_PEAK_RATE, 0.0),
        fast_dtype(device, assigned["precision"]),
    )
    times = StepTimes(warm_up=assigned["warm_up"], most=assigned["steps"], seconds=assigned["seconds"])
    losses = []
    for event in trainer.run():
        assert isinstance(event, StepDone)
        losses.append(event.loss)
        if times.tick():
            break
    tokens = batch * assigned["block"]
    figures = {assigned["group"]: tokens / times.mean_s, "loss": losses[-1], "warm_up_s": times.warm_up_s}
    answer(**figures)


if __name__ == "__main__":
    main()
