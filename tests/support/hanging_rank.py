"""A process of a training that goes wrong: `python -m support.hanging_rank sleep|compute`.

Started with others by `start_ranked`; rank 1 never ends its sixth step, in the way that is named.
"""

import sys
import time
from collections.abc import Sequence

import torch

from conjure.lm.training.distributed import process_group, progress_reports
from conjure.lm.training.packing import Batch, Blocks
from support.training import tiny_trainer

# As in a real training, but found sooner.
progress_reports._IDLE_S = progress_reports._LEAST_CPU_S = 0.5
HANG_AFTER = 5  # steps: by then, this process has made steps of each size


class HangingBlocks:
    """Blocks that are not given out any more once the trainer has come so far."""

    def __init__(self, blocks: Blocks, how: str) -> None:
        self._blocks, self._how = blocks, how
        self.hangs = lambda: False

    def __len__(self) -> int:
        return len(self._blocks)

    def order(self, epoch: int, seed: int) -> list[int]:
        return self._blocks.order(epoch, seed)

    def batch(self, numbers: Sequence[int]) -> Batch:
        if self.hangs() and self._how == "sleep":
            time.sleep(3600)
        while self.hangs():
            pass
        return self._blocks.batch(numbers)


def main() -> None:
    """Train, and hang."""
    group = process_group.join(2, lambda: torch.device("cpu"))
    trainer = tiny_trainer(group=group, batch_size=8, micro_batch=2)
    trainer.blocks = blocks = HangingBlocks(trainer.blocks, sys.argv[1])
    blocks.hangs = lambda: group.rank == 1 and trainer.progress.step == HANG_AFTER
    for event in trainer.run():
        print(type(event).__name__, event.step, flush=True)


if __name__ == "__main__":
    main()
