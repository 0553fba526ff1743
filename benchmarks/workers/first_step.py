"""Seconds from the start of a process to the end of its first training step, with all that comes before."""

import tempfile
import time
from pathlib import Path

import psutil
from exchange import answer, task

from conjure.lm.training.events import StepDone
from conjure.lm.training.finetune import train
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest


def main() -> None:
    assigned = task()
    with tempfile.TemporaryDirectory() as folder:
        request = FinetuneRequest(
            data=[assigned["data"]],
            model=assigned["checkpoint"],
            output=Path(folder) / "output",
            batch_size=assigned["batch"],
            block_size=assigned["block"],
            max_steps=1,
        )
        for event in train(prepare(request)):
            if isinstance(event, StepDone):
                answer(first_step=time.time() - psutil.Process().create_time())
                return


if __name__ == "__main__":
    main()
